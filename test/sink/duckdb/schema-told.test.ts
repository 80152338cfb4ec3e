import { describe, expect, test } from 'vitest';
import { ChangeEvent, SCHEMA_MESSAGE } from '../../../src/event/change-event.ts';
import type { Relation } from '../../../src/event/relation.ts';
import type { SchemaChange } from '../../../src/event/schema-change.ts';
import {
  arrayOf,
  changes,
  copy,
  delivery,
  enumOf,
  events,
  openSink,
  relation,
  snapshotEvents,
  type,
} from './support.ts';

type Spec = readonly [
  attnum: number,
  name: string,
  of: Parameters<typeof type>[0] | ReturnType<typeof type>,
  modifier?: number,
];

/** A relation whose columns have numbers. */
function numbered(table: string, columns: readonly Spec[], extra: Partial<Relation> = {}): Relation {
  const plain = relation(
    table,
    columns.map(([, name, of, modifier]) => [name, of, modifier ?? -1]),
  );
  return { ...plain, columns: plain.columns.map((column, i) => ({ ...column, attnum: columns[i]![0] })), ...extra };
}

/** What the source tells of a change; `existing` by name, null where nothing is said. */
function told(
  to: Relation,
  { existing = {}, ...more }: Partial<SchemaChange> & { existing?: Record<string, string | null | undefined> } = {},
): ChangeEvent[] {
  const columns = to.columns.map(({ name, attnum }) => {
    const value = name in existing ? existing[name] : null;
    return {
      attnum: attnum!,
      name,
      type: '',
      notNull: false,
      default: null,
      ...(value === undefined ? {} : { existing: value }),
    };
  });
  const change: SchemaChange = {
    kind: 'altered',
    command: 'ALTER TABLE',
    from: null,
    rewritten: 'no',
    columns,
    ...more,
  };
  const [{ transaction }] = events([['t', to]]) as [ChangeEvent];
  const message = { prefix: SCHEMA_MESSAGE, content: Buffer.from(JSON.stringify(change)), transactional: true };
  return [new ChangeEvent('m', transaction, 1, 1, 0n, to, null, null, message)];
}

const v1 = numbered('t', [
  [1, 'id', 'int4'],
  [2, 'a', 'text'],
]);
const filled = copy(['t', v1], ['r', v1, ['1', 'x']], ['r', v1, ['2', 'y']]);

describe('a change of which the source tells', () => {
  test('renames, drops and fills columns between the rows of one delivery, and survives a crash', async () => {
    const sink = await openSink();
    await sink.apply(filled);
    const v2 = numbered('t', [
      [1, 'id', 'int4'],
      [2, 'b', 'text'],
    ]);
    const v3 = numbered('t', [
      [1, 'id', 'int4'],
      [2, 'b', 'text'],
      [3, 'a', 'int4'],
      [4, 'at', 'timestamptz'],
      [5, 'l', arrayOf(type('text'))],
    ]);
    const v4 = numbered('t', [
      [1, 'id', 'int8'],
      [3, 'a', 'int4'],
      [4, 'at', 'timestamptz'],
      [5, 'l', arrayOf(type('text'))],
    ]);
    await sink.apply(
      delivery(
        events([
          ['c', v1, ['3', 'z']],
          ['d', v1, null, ['1', null]],
        ]),
        told(v2),
        events([
          ['u', v2, ['2', 'yy']],
          ['c', v2, ['4', 'w']],
        ]),
        told(v3, { existing: { a: '7', at: '2020-01-01 00:00:00+00', l: '{"a,b",NULL}' } }),
        events([
          ['c', v3, ['5', 'five', '5', 'infinity', '{}']],
          ['d', v3, null, ['3', null, null, null, null]],
        ]),
        told(v4, { rewritten: 'cast' }),
        events([
          ['u', v4, ['4', '40', undefined, undefined]],
          ['c', v4, ['5000000000', null, null, null]],
        ]),
      ),
    );
    const expected = [
      ['2', 7, '2020-01-01 00:00:00+00', ['a,b', null]],
      ['4', 40, '2020-01-01 00:00:00+00', ['a,b', null]],
      ['5', 5, 'infinity', []],
      ['5000000000', null, null, null],
    ];
    const all = 'SELECT id, a, "at"::varchar, l FROM t ORDER BY id';
    expect(await sink.rows(all)).toEqual(expected);
    expect(await (await sink.crashed()).rows(all)).toEqual(expected);
    expect((await sink.rows("SELECT column_name FROM duckdb_columns() WHERE table_name = 't'")).flat().sort()).toEqual([
      'a',
      'at',
      'id',
      'l',
    ]);
    expect((await sink.rows('SELECT applied FROM _waltide.schema_changes ORDER BY commit_lsn')).flat()).toEqual([
      'renamed column a to b',
      'added column a; added column at; added column l; filled column a; filled column at; filled column l',
      'dropped column b; changed column id',
    ]);
  });

  test('swaps names, and changes their case', async () => {
    const sink = await openSink();
    await sink.apply(filled);
    const swapped = numbered(
      't',
      [
        [2, 'id', 'text'],
        [1, 'A', 'int4'],
      ],
      { key: [1] },
    );
    await sink.apply(delivery(told(swapped), events([['c', swapped, ['z', '3']]])));
    expect(await sink.rows('SELECT "A", id FROM t ORDER BY "A"')).toEqual([
      [1, 'x'],
      [2, 'y'],
      [3, 'z'],
    ]);
  });

  test('renames the table, also to another schema, and goes on there', async () => {
    const sink = await openSink();
    await sink.apply(filled);
    const named = { ...v1, table: 'u' };
    const moved = { ...v1, schema: 's', table: 'u' };
    const cased = { ...v1, schema: 's', table: 'U' };
    await sink.apply(delivery(events([['d', v1, null, ['1', null]]]), told(named), events([['c', named, ['3', 'z']]])));
    expect(await sink.rows('SELECT id FROM u ORDER BY id')).toEqual([[2], [3]]);
    await sink.apply(
      delivery(told(moved), events([['c', moved, ['4', 'm']]]), told(cased), events([['c', cased, ['5', 'c']]])),
    );
    const again = await sink.crashed();
    expect(await again.rows('SELECT id FROM s."U" ORDER BY id')).toEqual([[2], [3], [4], [5]]);
    expect(again.state.tables).toMatchObject([{ schema: 's', table: 'U', oid: v1.oid, live: true }]);
    expect(await again.rows("SELECT count(*) FROM duckdb_tables() WHERE schema_name <> '_waltide'")).toEqual([['1']]);
  });

  test('renames labels of an enum', async () => {
    const sink = await openSink();
    const mood = { ...enumOf('mood', 'sad', 'ok'), oid: 20_000, labelOids: [1, 2] };
    const before = numbered('e', [
      [1, 'id', 'int4'],
      [2, 'm', mood],
    ]);
    const after = numbered('e', [
      [1, 'id', 'int4'],
      [2, 'm', { ...mood, name: 'feeling', labels: ['blue', 'new', 'ok'], labelOids: [1, 3, 2] }],
    ]);
    await sink.apply(
      copy(['t', before], ['r', before, ['1', 'sad']], ['r', before, ['2', 'ok']], ['r', before, ['3', null]]),
    );
    await sink.apply(
      delivery(
        events([['d', before, null, ['2', null]]]),
        told(after),
        events([
          ['c', after, ['4', 'new']],
          ['c', after, ['5', 'blue']],
        ]),
      ),
    );
    const all = 'SELECT id, m FROM e ORDER BY id';
    const expected = [
      [1, 'blue'],
      [3, null],
      [4, 'new'],
      [5, 'blue'],
    ];
    expect(await sink.rows(all)).toEqual(expected);
    const again = await sink.crashed();
    expect(await again.rows(all)).toEqual(expected);
    const gone = numbered('e', [
      [1, 'id', 'int4'],
      [2, 'm', { ...mood, labels: ['ok'], labelOids: [2] }],
    ]);
    await expect(again.apply(delivery(told(gone)))).rejects.toMatchObject({ refill: true });
  });

  test.each([
    ['values are rewritten', told(v1, { rewritten: 'unknown' })],
    [
      'a new column holds what nobody tells',
      told(
        numbered('t', [
          [1, 'id', 'int4'],
          [2, 'a', 'text'],
          [3, 'u', 'uuid'],
        ]),
        { existing: { u: undefined } },
      ),
    ],
    [
      'a type changes its values',
      told(
        numbered('t', [
          [1, 'id', 'int4'],
          [2, 'a', 'int4'],
        ]),
        { rewritten: 'cast' },
      ),
    ],
    ['rows went with a partition', told({ ...v1, columns: [], key: [] }, { rewritten: 'unknown' })],
  ])('asks for a new snapshot where %s, and is what it was until then', async (_name, event) => {
    const sink = await openSink();
    await sink.apply(filled);
    const to = event[0]!.relation!;
    const rest = events([['c', v1, ['3', 'z']]]);
    await expect(sink.apply(delivery(rest, event))).rejects.toMatchObject({
      refill: true,
      schema: 'public',
      table: 't',
    });
    await sink.stopTable(to, 'because', { snapshotGoesOn: false, refill: true });
    await sink.apply(delivery(event));
    expect(await sink.rows('SELECT id FROM t ORDER BY id')).toEqual([[1], [2]]);
    const again = await sink.crashed();
    expect(again.state).toMatchObject({ stopped: [], tables: [{ table: 't', live: false, filling: null }] });
    const v9 = numbered('t', [
      [1, 'id', 'int4'],
      [9, 'n', 'int4'],
    ]);
    await again.apply(
      delivery(
        snapshotEvents('s', 'incremental', [
          ['t', v9],
          ['r', v9, ['1', '10']],
        ]),
        snapshotEvents('s', 'incremental', [['m', v9]]),
      ),
    );
    await again.apply(changes(['c', v9, ['2', '20']]));
    expect(await again.rows('SELECT id, n FROM t ORDER BY id')).toEqual([
      [1, 10],
      [2, 20],
    ]);
  });

  test('a type narrows where PostgreSQL has cast each value itself', async () => {
    const sink = await openSink();
    await sink.apply(filled);
    const narrow = numbered('t', [
      [1, 'id', 'int2'],
      [2, 'a', 'text'],
    ]);
    await sink.apply(delivery(told(narrow, { rewritten: 'cast' })));
    expect(await sink.rows('SELECT id, typeof(id) FROM t ORDER BY id')).toEqual([
      [1, 'SMALLINT'],
      [2, 'SMALLINT'],
    ]);
  });

  test('reaches the rows that a snapshot is gathering', async () => {
    const sink = await openSink();
    await sink.apply(filled);
    const v2 = numbered('t', [
      [1, 'id', 'int4'],
      [2, 'b', 'text'],
      [3, 'n', 'int4'],
    ]);
    await sink.apply(
      delivery(
        snapshotEvents('s', 'incremental', [
          ['t', v1],
          ['r', v1, ['1', 'x']],
        ]),
      ),
    );
    await sink.apply(delivery(told({ ...v2, table: 'u' }, { existing: { n: '5' } })));
    const u2 = { ...v2, table: 'u' };
    await sink.apply(
      delivery(snapshotEvents('s', 'incremental', [['r', u2, ['3', 'q', '6']]]), events([['c', u2, ['4', 'r', '7']]])),
    );
    expect(await sink.rows('SELECT id, b, n FROM u ORDER BY id')).toEqual([
      [1, 'x', 5],
      [2, 'y', 5],
      [4, 'r', 7],
    ]);
    await sink.apply(delivery(snapshotEvents('s', 'incremental', [['m', u2]])));
    expect(await sink.rows('SELECT id, b, n FROM u ORDER BY id')).toEqual([
      [1, 'x', 5],
      [3, 'q', 6],
      [4, 'r', 7],
    ]);
  });

  test('numbers are learned by the names where the sink holds none', async () => {
    const sink = await openSink();
    const plain = relation('t', [
      ['id', 'int4'],
      ['a', 'text'],
    ]);
    await sink.apply(copy(['t', plain], ['r', plain, ['1', 'x']]));
    await expect(
      sink.apply(
        delivery(
          told(
            numbered('t', [
              [1, 'id', 'int4'],
              [2, 'b', 'text'],
            ]),
          ),
        ),
      ),
    ).rejects.toMatchObject({ refill: true });
    await sink.apply(
      delivery(
        told(v1, { command: 'SETUP' }),
        told(
          numbered('t', [
            [1, 'id', 'int4'],
            [2, 'b', 'text'],
          ]),
        ),
      ),
    );
    expect(await sink.rows('SELECT id, b FROM t')).toEqual([[1, 'x']]);
  });
});

describe('policies', () => {
  const without = numbered('t', [[1, 'id', 'int4']]);

  test('evolve drops the column, ignore-drops keeps it', async () => {
    const evolving = await openSink();
    await evolving.apply(filled);
    await evolving.apply(delivery(told(without), events([['c', without, ['3']]])));
    expect(await evolving.rows('SELECT * FROM t ORDER BY id')).toEqual([[1], [2], [3]]);
    const keeping = await openSink(undefined, { schemaChanges: 'ignore-drops' });
    await keeping.apply(filled);
    await keeping.apply(delivery(told(without), events([['c', without, ['3']]])));
    expect(await keeping.rows('SELECT * FROM t ORDER BY id')).toEqual([
      [1, 'x'],
      [2, 'y'],
      [3, null],
    ]);
    const again = numbered('t', [
      [1, 'id', 'int4'],
      [3, 'a', 'int4'],
    ]);
    await keeping.apply(delivery(told(again, { existing: { a: '1' } })));
    expect(await keeping.rows('SELECT id, a FROM t ORDER BY id')).toEqual([
      [1, 1],
      [2, 1],
      [3, 1],
    ]);
  });

  test('pause-table stops the table at the first change, as it is', async () => {
    const sink = await openSink(undefined, { schemaChanges: 'pause-table' });
    await sink.apply(filled);
    await expect(sink.apply(delivery(told(without)))).rejects.toMatchObject({ refill: false, message: /pause-table/ });
    const byName = relation('t', [
      ['id', 'int4'],
      ['a', 'text'],
      ['b', 'int4'],
    ]);
    await expect(sink.apply(changes(['c', byName, ['3', 'x', '1']]))).rejects.toMatchObject({ refill: false });
    await sink.apply(delivery(told(v1)));
  });

  test.each([
    ['keep', [['2']]],
    ['drop', null],
  ] as const)('a dropped table: %s', async (droppedTables, left) => {
    const sink = await openSink(undefined, { droppedTables });
    await sink.apply(filled);
    await sink.apply(delivery(told(v1, { kind: 'dropped', command: 'DROP TABLE', columns: [] })));
    const count = sink.rows('SELECT count(*) FROM t');
    if (left) expect(await count).toEqual(left);
    else await expect(count).rejects.toThrow();
    const again = await sink.crashed();
    expect(again.state.stopped).toEqual([]);
    expect(again.state.tables?.filter(({ live }) => live)).toEqual([]);
    const fresh = { ...v1, oid: 77 };
    await again.apply(copy(['t', fresh], ['r', fresh, ['9', 'new']]));
    await again.apply(changes(['c', fresh, ['10', 'newer']]));
    expect(await again.rows('SELECT id FROM t ORDER BY id')).toEqual([[9], [10]]);
  });

  test('a table takes the name of one that was dropped', async () => {
    const sink = await openSink();
    const other = { ...v1, oid: 99, table: 'other' };
    await sink.apply(filled);
    await sink.apply(copy(['t', other], ['r', other, ['7', 'seven']]));
    await sink.apply(
      delivery(told(v1, { kind: 'dropped', command: 'DROP TABLE', columns: [] }), told({ ...other, table: 't' })),
    );
    expect(await sink.rows('SELECT id FROM t')).toEqual([[7]]);
  });
});

test('without the trigger a renamed table and a default come with the rows', async () => {
  const sink = await openSink();
  await sink.apply(filled);
  const plain = relation('t', [
    ['id', 'int4'],
    ['a', 'text'],
    ['n', 'int4'],
  ]);
  const columns = plain.columns.map((column) =>
    column.name === 'n' ? { ...column, existing: { text: '5' } } : column,
  );
  const u = { ...plain, columns, table: 'u' };
  await sink.apply(delivery(events([['d', v1, null, ['1', null]]]), events([['c', u, ['3', 'z', '6']]])));
  expect(await sink.rows('SELECT id, n FROM u ORDER BY id')).toEqual([
    [2, 5],
    [3, 6],
  ]);
  const unknown = { ...u, columns: [...columns, { ...columns[2]!, name: 'm', existing: 'unknown' as const }] };
  await expect(sink.apply(changes(['c', unknown, ['4', 'q', '1', '2']]))).rejects.toMatchObject({ refill: true });
});
