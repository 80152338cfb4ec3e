import { describe, expect, test } from 'vitest';
import { RejectedError } from '../../../src/errors.ts';
import { type Change, changes, copy, delivery, events, openSink, relation, type Values } from './support.ts';

const item = relation('item', [
  ['id', 'int8'],
  ['name', 'text'],
  ['body', 'text'],
]);
const all = 'SELECT * FROM item ORDER BY id';
const LONG = 'x'.repeat(5000);

describe('rows of a table with a key', () => {
  test('inserts, updates and deletes arrive, whatever the order inside one delivery', async () => {
    const sink = await openSink();
    await sink.apply(changes(['c', item, ['1', 'a', null]], ['c', item, ['2', 'b', '']], ['c', item, ['3', 'c', 'z']]));
    await sink.apply(
      changes(
        ['u', item, ['1', 'a2', null]],
        ['d', item, null, ['2', null, null]],
        ['c', item, ['4', 'd', null]],
        ['d', item, null, ['4', null, null]],
        ['d', item, null, ['3', null, null]],
        ['c', item, ['3', 'again', LONG]],
      ),
    );
    expect(await sink.rows(all)).toEqual([
      ['1', 'a2', null],
      ['3', 'again', LONG],
    ]);
  });

  test('key changes: a chain, and two rows that swap their keys', async () => {
    const sink = await openSink();
    await sink.apply(
      changes(['c', item, ['1', 'one', null]], ['c', item, ['2', 'two', null]], ['c', item, ['3', 'three', null]]),
    );
    await sink.apply(
      changes(
        ['u', item, ['9', 'one', null], ['1', null, null]],
        ['u', item, ['1', 'two', null], ['2', null, null]],
        ['u', item, ['2', 'one', null], ['9', null, null]],
        ['u', item, ['30', 'three', null], ['3', null, null]],
        ['u', item, ['31', 'three', null], ['30', null, null]],
      ),
    );
    expect(await sink.rows(all)).toEqual([
      ['1', 'two', null],
      ['2', 'one', null],
      ['31', 'three', null],
    ]);
  });

  test('an unchanged TOAST value is kept: from the same delivery, from the stored row, through key changes', async () => {
    const sink = await openSink();
    await sink.apply(
      changes(['c', item, ['1', 'a', LONG]], ['c', item, ['2', 'b', `${LONG}2`]], ['c', item, ['3', 'c', null]]),
    );
    await sink.apply(
      changes(
        ['u', item, ['1', 'a2', undefined]],
        ['u', item, ['20', 'b2', undefined], ['2', null, null]],
        ['u', item, ['21', 'b3', undefined], ['20', null, null]],
        ['c', item, ['2', 'new', 'short']],
        ['u', item, ['2', 'new2', undefined]],
        ['u', item, ['3', 'c', `${LONG}3`]],
        ['u', item, ['3', 'c2', undefined]],
      ),
    );
    expect(await sink.rows(all)).toEqual([
      ['1', 'a2', LONG],
      ['2', 'new2', 'short'],
      ['3', 'c2', `${LONG}3`],
      ['21', 'b3', `${LONG}2`],
    ]);
  });

  test('an update that lacks values of a row the sink does not hold is refused, not guessed', async () => {
    const sink = await openSink();
    await sink.apply(changes(['c', item, ['1', 'a', LONG]]));
    await expect(sink.apply(changes(['u', item, ['5', 'x', undefined]]))).rejects.toThrow(
      /public\.item: 1 updated rows leave out/,
    );
    expect(await sink.rows(all)).toEqual([['1', 'a', LONG]]);
  });

  test('truncate voids what came before it, in the file and in the delivery', async () => {
    const sink = await openSink();
    await sink.apply(changes(['c', item, ['1', 'a', null]]));
    await sink.apply(
      changes(['c', item, ['2', 'b', null]], ['t', item], ['c', item, ['1', 'c', null]], ['u', item, ['1', 'd', null]]),
    );
    expect(await sink.rows(all)).toEqual([['1', 'd', null]]);
    await sink.apply(changes(['t', item]));
    expect(await sink.rows(all)).toEqual([]);
  });

  test('keys of several columns and of other types', async () => {
    const sink = await openSink();
    const line = relation(
      'line',
      [
        ['a', 'numeric'],
        ['b', 'text'],
        ['c', 'float8'],
        ['v', 'text'],
      ],
      { key: [0, 1, 2] },
    );
    await sink.apply(
      changes(
        ['c', line, ['1.0', 'x', '-0', 'one']],
        ['c', line, ['1.00', 'y', 'NaN', 'two']],
        ['c', line, ['2', "it's", '1e-300', 'three']],
      ),
    );
    await sink.apply(
      changes(
        ['u', line, ['1.000', 'x', '0', 'uno'], ['1.0', 'x', '-0', null]],
        ['u', line, ['1.00', 'y', 'NaN', 'dos']],
        ['d', line, null, ['2', "it's", '1e-300', null]],
      ),
    );
    expect(await sink.rows('SELECT a, b, v FROM line ORDER BY b')).toEqual([
      ['1.000', 'x', 'uno'],
      ['1.00', 'y', 'dos'],
    ]);
  });

  test('more rows than one chunk holds, wide and narrow, from shared and from own buffers', async () => {
    const sink = await openSink();
    const list: Change[] = [];
    for (let i = 0; i < 7000; i++)
      list.push(['c', item, [String(i), i % 3 === 0 ? null : `name ${i}`, 'y'.repeat(i % 2500)]]);
    await sink.apply(changes(...list));
    await sink.apply(changes(...list.map(([, of, after]): Change => ['u', of, [after![0]!, 'n', undefined]])));
    expect(await sink.rows('SELECT count(*), count(DISTINCT id), sum(length(body)), min(name) FROM item')).toEqual([
      ['7000', '7000', String(list.reduce((sum, [, , after]) => sum + after![2]!.length, 0)), 'n'],
    ]);
  });
});

describe('rows of a table without a key', () => {
  const log = relation(
    'log',
    [
      ['who', 'text'],
      ['n', 'numeric'],
      ['tags', { ...item.columns[1]!.type, name: '_text', kind: 'array', of: item.columns[1]!.type }],
    ],
    {
      key: [],
      replicaIdentity: 'f',
    },
  );

  test('each update and delete takes exactly one of several equal rows, NULLs included', async () => {
    const sink = await openSink();
    const a: Values = ['a', null, '{x,NULL}'];
    const b: Values = ['b', '1.0', null];
    await sink.apply(changes(['c', log, a], ['c', log, a], ['c', log, a], ['c', log, b], ['c', log, b]));
    await sink.apply(
      changes(['d', log, null, a], ['u', log, ['c', undefined, undefined], b], ['c', log, b], ['d', log, null, a]),
    );
    expect(await sink.rows('SELECT who, n, tags FROM log ORDER BY who')).toEqual([
      ['a', null, ['x', null]],
      ['b', '1.0', null],
      ['b', '1.0', null],
      ['c', '1.0', null],
    ]);
  });

  test('without FULL takes inserts, and refuses the rest', async () => {
    const sink = await openSink();
    const plain = { ...log, replicaIdentity: 'n' as const };
    await sink.apply(changes(['c', plain, ['a', '1', null]], ['c', plain, ['a', '1', null]]));
    expect(await sink.rows('SELECT count(*) FROM log')).toEqual([['2']]);
    await expect(sink.apply(changes(['d', plain, null, ['a', '1', null]]))).rejects.toBeInstanceOf(RejectedError);
  });
});

describe('names', () => {
  test('reserved words, quotes, dots, other scripts and 63 bytes are taken as they are', async () => {
    const sink = await openSink();
    const names = ['at', 'end', 'select', 'a"b', "c'd", 'e.f', 'ключ', '名前', 'x'.repeat(63), 'rowid', ' '];
    const odd = relation(
      'order',
      names.map((name) => [name, 'text'] as const),
      { schema: 'temp', key: [1, 3] },
    );
    await sink.apply(changes(['c', odd, names.map((name) => `v ${name}`)]));
    await sink.apply(changes(['u', odd, names.map((name, i) => (i === 1 || i === 3 ? `v ${name}` : `w ${name}`))]));
    const { columns, rows } = await sink.query!('SELECT * FROM sink."temp"."order"', { rowsMax: 10, timeoutMs: 5000 });
    expect(columns).toEqual(names);
    expect(rows).toEqual([names.map((name, i) => (i === 1 || i === 3 ? `v ${name}` : `w ${name}`))]);
  });

  test('tables or columns that differ in case only are refused by name', async () => {
    const sink = await openSink();
    await sink.apply(changes(['c', item, ['1', 'a', null]]));
    await expect(sink.apply(changes(['t', { ...item, oid: 5, table: 'ITEM' }]))).rejects.toThrow(
      /public\.ITEM would share its name in DuckDB with public\.item/,
    );
    await expect(sink.apply(changes(['t', { ...item, oid: 6, schema: 'main' }]))).rejects.toThrow(
      /main\.item would share its name/,
    );
    const twice = relation('twice', [
      ['id', 'int4'],
      ['Name', 'text'],
      ['name', 'text'],
    ]);
    await expect(sink.apply(changes(['t', twice]))).rejects.toThrow(
      /columns "Name" and "name" of public\.twice differ in case only/,
    );
    // Not ASCII, so DuckDB does tell them apart.
    await sink.apply(
      changes([
        'c',
        relation('umlaut', [
          ['É', 'text'],
          ['é', 'text'],
        ]),
        ['1', '2'],
      ]),
    );
    expect(await sink.rows('SELECT * FROM umlaut')).toEqual([['1', '2']]);
  });

  test("a schema of Waltide's own name, and tables that it did not create, are left alone", async () => {
    const sink = await openSink();
    await expect(sink.apply(changes(['t', { ...item, oid: 5, schema: '_waltide', table: 'offsets' }]))).rejects.toThrow(
      /Waltide's own schema/,
    );
    await sink.close();
    const { DuckDBInstance } = await import('@duckdb/node-api');
    const other = await DuckDBInstance.create(sink.path);
    const connection = await other.connect();
    await connection.run(
      "CREATE TABLE Item (mine VARCHAR); INSERT INTO item VALUES ('keep'); CREATE VIEW v AS SELECT 1 AS a",
    );
    connection.closeSync();
    other.closeSync();

    const again = await openSink(sink.path);
    await expect(again.apply(changes(['c', item, ['1', 'a', null]]))).rejects.toThrow(
      /exists in the DuckDB file but was not created by Waltide/,
    );
    await expect(again.apply(changes(['t', { ...item, oid: 5, table: 'v' }]))).rejects.toThrow(
      /not created by Waltide/,
    );
    // Stopping and copying again do not make it ours.
    await again.stopTable(item, 'foreign', { snapshotGoesOn: false, refill: false });
    await expect(again.apply(copy(['t', item]))).rejects.toThrow(/not created by Waltide/);
    expect(await again.rows('SELECT * FROM item')).toEqual([['keep']]);
  });
});

describe('a copy', () => {
  test('creates tables that hold no rows', async () => {
    const sink = await openSink();
    await sink.apply(copy(['t', item]));
    expect(await sink.rows(all)).toEqual([]);
  });

  test('begins with an empty table, in the shape that the source has now', async () => {
    const sink = await openSink();
    await sink.apply(copy(['t', item], ['r', item, ['1', 'a', null]]));
    const changed = relation(
      'item',
      [
        ['id', 'text'],
        ['other', 'int4'],
      ],
      { oid: 999 },
    );
    await sink.apply(
      delivery(
        events([['c', item, ['2', 'void', null]]]),
        events(
          [
            ['t', changed],
            ['r', changed, ['k', '5']],
            ['m', changed],
          ],
          true,
        ),
        events([['c', changed, ['l', '6']]]),
      ),
    );
    expect(await sink.rows('SELECT * FROM item ORDER BY id')).toEqual([
      ['k', 5],
      ['l', 6],
    ]);
  });

  test('takes a stopped table up again; until then its events are left out', async () => {
    const sink = await openSink();
    await sink.apply(changes(['c', item, ['1', 'a', null]]));
    await sink.stopTable(item, 'because', { snapshotGoesOn: false, refill: false });
    await sink.apply(changes(['c', item, ['2', 'b', null]]));
    expect(await sink.rows(all)).toEqual([['1', 'a', null]]);
    expect(await sink.rows('SELECT table_name, state, reason FROM _waltide.tables')).toEqual([
      ['item', 'stopped', 'because'],
    ]);
    await sink.apply(copy(['t', item], ['r', item, ['7', 'g', null]]));
    expect(await sink.rows(all)).toEqual([['7', 'g', null]]);
    expect(await sink.rows('SELECT table_name, state, reason FROM _waltide.tables')).toEqual([
      ['item', 'streaming', null],
    ]);
  });
});

test('messages and events without a relation are passed over', async () => {
  const sink = await openSink();
  const [event] = events([['m', item]]);
  await sink.apply(delivery([Object.assign(Object.create(Object.getPrototypeOf(event)), event, { relation: null })]));
  expect(await sink.rows('SELECT count(*) FROM _waltide.tables')).toEqual([['0']]);
});
