import { describe, expect, test } from 'vitest';
import {
  type Change,
  delivery,
  events,
  openSink,
  relation,
  snapshotEvents,
  type TestSink,
  type Values,
} from './support.ts';

const columns = [
  ['id', 'int8'],
  ['name', 'text'],
  ['body', 'text'],
] as const;
const item = relation('item', columns);
const LONG = 'x'.repeat(5000);
const all = 'SELECT id, name FROM item ORDER BY id';
const SHADOW = '_waltide_shadow_item';

const begin = (id: string) => snapshotEvents(id, 'incremental', [['t', item]]);
const rows = (id: string, ...list: readonly Values[]) =>
  snapshotEvents(
    id,
    'incremental',
    list.map((values): Change => ['r', item, values]),
  );
const end = (id: string, phase: 'completed' | 'cancelled' = 'completed') =>
  snapshotEvents(id, 'incremental', [['m', item]], phase);

async function filled(...names: readonly string[]): Promise<TestSink> {
  const sink = await openSink();
  const list = names.map((name, i): Change => ['r', item, [String(i + 1), name, LONG]]);
  await sink.apply(delivery(snapshotEvents('first', 'initial', [['t', item], ...list, ['m', item]])));
  return sink;
}

describe('a snapshot of a live table', () => {
  test('is seen when it is complete, and then without the rows that are no more', async () => {
    const sink = await filled('old', 'gone', 'stale');
    await sink.apply(delivery(begin('x'), rows('x', ['1', 'old', null])));
    await sink.apply(delivery(events([['u', item, ['1', 'changed', null]]]), rows('x', ['3', 'fresh', null])));
    expect(await sink.rows(all)).toEqual([
      ['1', 'changed'],
      ['2', 'gone'],
      ['3', 'stale'],
    ]);
    await sink.apply(delivery(end('x'), events([['c', item, ['4', 'after', null]]])));
    expect(await sink.rows(all)).toEqual([
      ['1', 'changed'],
      ['3', 'fresh'],
      ['4', 'after'],
    ]);
    expect(await sink.rows(`SELECT * FROM duckdb_tables() WHERE table_name = '${SHADOW}'`)).toEqual([]);
  });

  test('takes changes of rows that are not copied yet, and rows that come twice', async () => {
    const sink = await filled('a', 'b', 'c', 'd', 'e');
    await sink.apply(delivery(begin('x'), rows('x', ['1', 'a', LONG], ['2', 'b', LONG])));
    await sink.apply(
      delivery(
        events([
          ['u', item, ['2', 'b2', undefined]],
          ['u', item, ['3', 'c2', undefined]],
          ['u', item, ['4', 'd2', 'whole']],
          ['d', item, null, ['5', null, null]],
          ['c', item, ['6', 'f', null]],
          ['u', item, ['10', 'a', undefined], ['1', null, null]],
        ]),
      ),
    );
    await sink.apply(
      delivery(rows('x', ['3', 'c2', LONG], ['4', 'd2', 'whole'], ['6', 'f', null], ['10', 'a', LONG]), end('x')),
    );
    expect(await sink.rows('SELECT id, name, length(body) FROM item ORDER BY id')).toEqual([
      ['2', 'b2', '5000'],
      ['3', 'c2', '5000'],
      ['4', 'd2', '5'],
      ['6', 'f', null],
      ['10', 'a', '5000'],
    ]);
  });

  test('in one delivery: rows, changes before its end and after it', async () => {
    const sink = await filled('a', 'b');
    await sink.apply(
      delivery(
        events([['u', item, ['1', 'a2', undefined]]]),
        begin('x'),
        rows('x', ['1', 'a2', LONG], ['2', 'b', LONG], ['7', 'g', null]),
        events([
          ['d', item, null, ['2', null, null]],
          ['u', item, ['7', 'g2', null]],
        ]),
        end('x'),
        events([
          ['u', item, ['1', 'a3', undefined]],
          ['c', item, ['2', 'b2', null]],
        ]),
        begin('y'),
        rows('y', ['1', 'y', null]),
      ),
    );
    const wanted = [
      ['1', 'a3'],
      ['2', 'b2'],
      ['7', 'g2'],
    ];
    expect(await sink.rows(all)).toEqual(wanted);
    expect(await sink.rows(`SELECT id, name FROM "${SHADOW}"`)).toEqual([['1', 'y']]);
    expect(await (await sink.crashed()).rows(all)).toEqual(wanted);
  });

  test('outlives a crash at every point, also where its end comes with deletes', async () => {
    let sink = await filled('a', 'b', 'c');
    const steps = [
      delivery(begin('x'), rows('x', ['1', 'a', LONG], ['2', 'b', LONG], ['3', 'c', LONG])),
      delivery(events([['u', item, ['1', 'a2', undefined]]])),
      delivery(
        events([
          ['d', item, null, ['2', null, null]],
          ['u', item, ['3', 'c2', undefined]],
        ]),
        end('x'),
        events([['u', item, ['1', 'a3', undefined]]]),
      ),
    ];
    for (const step of steps) {
      await sink.apply(step);
      sink = await sink.crashed();
    }
    expect(await sink.rows(all)).toEqual([
      ['1', 'a3'],
      ['3', 'c2'],
    ]);
    expect(sink.state.tables).toEqual([{ schema: 'public', table: 'item', oid: item.oid, live: true, filling: null }]);
  });

  test('begun again starts anew; cancelled leaves what was', async () => {
    const sink = await filled('a', 'b');
    await sink.apply(delivery(begin('x'), rows('x', ['1', 'a', null], ['9', 'void', null])));
    expect((await sink.crashed()).state.tables).toEqual([
      { schema: 'public', table: 'item', oid: item.oid, live: true, filling: 'x' },
    ]);
    await sink.apply(delivery(begin('x'), rows('x', ['1', 'again', null])));
    expect(await sink.rows(`SELECT id, name FROM "${SHADOW}"`)).toEqual([['1', 'again']]);
    await sink.apply(delivery(end('x', 'cancelled'), events([['u', item, ['1', 'a2', undefined]]])));
    expect(await sink.rows('SELECT id, name, length(body) FROM item ORDER BY id')).toEqual([
      ['1', 'a2', '5000'],
      ['2', 'b', '5000'],
    ]);
    expect((await sink.crashed()).state.tables).toEqual([
      { schema: 'public', table: 'item', oid: item.oid, live: true, filling: null },
    ]);
  });

  test('is emptied by a truncate, and takes a new column, with the live table', async () => {
    const sink = await filled('a', 'b');
    const wider = relation('item', [...columns, ['extra', 'int4']]);
    await sink.apply(delivery(begin('x'), rows('x', ['1', 'a', null])));
    await sink.apply(delivery(events([['t', item]])));
    await sink.apply(delivery(events([['c', wider, ['5', 'e', null, '55']]])));
    expect(await sink.rows('SELECT id, extra FROM item')).toEqual([['5', 55]]);
    await sink.apply(delivery(rows('x', ['6', 'f', null]), end('x')));
    expect(await sink.rows('SELECT id, extra FROM item ORDER BY id')).toEqual([
      ['5', 55],
      ['6', null],
    ]);
  });

  test('readers see the old rows or the new ones', async () => {
    const sink = await filled(...Array.from({ length: 3000 }, () => 'old'));
    await sink.apply(
      delivery(begin('x'), rows('x', ...Array.from({ length: 2000 }, (_, i) => [String(i), 'new', LONG]))),
    );
    const seen = new Set<string>();
    let swapped = false;
    const reading = (async () => {
      while (!swapped) seen.add(JSON.stringify(await sink.rows('SELECT count(*), min(name), max(name) FROM item')));
    })();
    for (const id of ['x', 'y', 'z']) {
      if (id !== 'x') await sink.apply(delivery(begin(id), rows(id, ['1', id, null])));
      await sink.apply(delivery(end(id)));
    }
    swapped = true;
    await reading;
    const possible = ['["3000","old","old"]', '["2000","new","new"]', '["1","y","y"]', '["1","z","z"]'];
    expect([...seen].map((one) => one.slice(1, -1)).filter((one) => !possible.includes(one))).toEqual([]);
  });

  test('has one thread of DuckDB while it runs, and leaves a query those that it began with', async () => {
    const sink = await filled('a');
    const threads = async (): Promise<unknown> => (await sink.rows(`SELECT current_setting('threads')::int`))[0]![0];
    const before = await threads();
    expect(before).toBeGreaterThan(1);
    const reading = sink.query!('SELECT count(*) FROM range(200000000)', { rowsMax: 1, timeoutMs: 60_000 });
    await sink.apply(delivery(begin('x')));
    expect(await threads()).toBe(before);
    await reading;
    await sink.apply(delivery(rows('x', ['1', 'a', LONG])));
    expect(await threads()).toBe(1);
    await sink.apply(delivery(end('x')));
    expect(await threads()).toBe(before);
  });

  test('goes on where the live table cannot take the new shape', async () => {
    const sink = await filled('a');
    const other = relation('item', [['id', 'date']]);
    const change = delivery(
      snapshotEvents('x', 'incremental', [
        ['t', other],
        ['r', other, ['2020-01-01']],
      ]),
      events([['c', other, ['2020-01-02']]]),
    );
    await expect(sink.apply(change)).rejects.toMatchObject({ code: 'SINK_REJECTED', snapshotGoesOn: true });
    await sink.stopTable(item, 'another table', { snapshotGoesOn: true, refill: false });
    await sink.apply(change);
    expect(await sink.rows(all)).toEqual([['1', 'a']]);
    expect((await sink.crashed()).state).toMatchObject({
      stopped: [{ table: 'item' }],
      tables: [{ table: 'item', live: false, filling: 'x' }],
    });
    await sink.apply(delivery(snapshotEvents('x', 'incremental', [['m', other]])));
    expect(await sink.rows('SELECT id::varchar FROM item ORDER BY id')).toEqual([['2020-01-01'], ['2020-01-02']]);
    expect((await sink.crashed()).state).toMatchObject({
      stopped: [],
      tables: [{ table: 'item', live: true, filling: null }],
    });
  });
});

test('a partial snapshot replaces rows in place', async () => {
  const sink = await filled('a', 'b');
  await sink.apply(
    delivery(
      snapshotEvents('p', 'partial', [
        ['r', item, ['2', 'b2', null]],
        ['r', item, ['3', 'c', null]],
      ]),
      events([['u', item, ['3', 'c2', null]]]),
    ),
  );
  expect(await sink.rows(all)).toEqual([
    ['1', 'a'],
    ['2', 'b2'],
    ['3', 'c2'],
  ]);
});

test('a table without a key is gathered beside, too', async () => {
  const sink = await openSink();
  const log = relation('log', [['line', 'text']], { key: [], replicaIdentity: 'f' });
  await sink.apply(
    delivery(
      snapshotEvents('x', 'incremental', [
        ['t', log],
        ['r', log, ['a']],
        ['r', log, ['a']],
      ]),
    ),
  );
  await sink.apply(delivery(events([['d', log, null, ['a']]])));
  await sink.apply(delivery(snapshotEvents('x', 'incremental', [['m', log]])));
  expect(await sink.rows('SELECT * FROM log')).toEqual([['a']]);
});

test('a table named like one of our own is refused', async () => {
  const sink = await openSink();
  await expect(sink.apply(delivery(events([['c', relation(SHADOW, columns), ['1', 'a', null]]])))).rejects.toThrow(
    /_waltide_.* are Waltide's own/,
  );
});

test('stopping a table drops what was gathered, and keeps its rows', async () => {
  const sink = await filled('a');
  await sink.apply(delivery(begin('x'), rows('x', ['1', 'x', null])));
  await sink.stopTable(item, 'because', { snapshotGoesOn: false, refill: false });
  expect(await sink.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main'")).toEqual([['item']]);
  expect((await sink.crashed()).state.tables).toEqual([
    { schema: 'public', table: 'item', oid: item.oid, live: false, filling: null },
  ]);
});
