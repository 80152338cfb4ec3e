import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectSource } from '../../src/postgres/session.ts';
import { createDuckdbSink } from '../../src/sink/duckdb/duckdb-sink.ts';
import type { Sink } from '../../src/sink/sink.ts';
import { chain } from '../../src/validation/parts.ts';
import { comparePairs, type Pair, rangePass, type Sides } from '../../src/validation/range-pass.ts';
import { SourceReader } from '../../src/validation/source.ts';
import {
  describeSourceTable,
  listSourceTables,
  relationOf,
  type SourceTable,
} from '../../src/validation/source-table.ts';
import { withDuckdb } from '../support/compare.ts';
import { TYPES, TYPES_SQL } from '../support/every-type.ts';
import { inserts, printed } from '../support/every-value.ts';
import { catchUp, log, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

/* A digest that differs where rows are equal costs only time, since rows are settled one by one: here it is a failure. */

const NUMERICS = ['4,2', '4,4', '9,0', '9,9', '10,3', '15,2', '18,0', '18,5', '18,13', '18,18', '19,2', '38,10'];
const NUMBERS = 3000;
const DAY = 'date, timestamp, timestamptz'.split(', ');

const types = TYPES.map((type) => ({ ...type, values: type.values.filter((value) => value !== '-0') }));

describe('digests of ranges', () => {
  let database: TestDatabase;
  let sink: Sink;
  let source: SourceReader;
  let connect: () => ReturnType<typeof connectSource>;
  let close: () => Promise<void>;
  const tables = new Map<string, SourceTable>();
  beforeAll(async () => {
    database = await createDatabase();
    const columns = types.map(({ type }, i) => `c${i} ${type}`).join(', ');
    await database.query(`${TYPES_SQL}; create table every (id int primary key, ${columns})`);
    await database.query(
      inserts(
        0,
        types.map(({ values }) => values),
      ),
    );
    // The order of keys is not that of names; a column is named as a bound in the statement.
    await database.query(
      `create table pairs (k0 text collate "C", b int, v0 text, waltide_part int, primary key (b, k0))`,
    );
    await database.query(
      `insert into pairs select 'k' || i % 97, i, nullif(repeat('ü', i % 300), ''), i from generate_series(1, 9000) i`,
    );
    const digits = (precision: string): string => {
      const [width, scale] = precision.split(',').map(Number) as [number, number];
      return `(case when i % 13 = 0 then 0 when i % 17 = 0 then null when i % 3 = 0 then (i % 100) * power(10::numeric, i % ${width - 1})
         else trunc((random() * 2 - 1)::numeric * power(10::numeric, (i % ${width}) + 1) + (random() * 1e15)::int8 % 10) end
         % (power(10::numeric, ${width}) - 1)) / power(10::numeric, ${scale})`;
    };
    await database.query(
      `create table numbers (id int primary key, ${NUMERICS.map((precision, i) => `n${i} numeric(${precision})`).join(', ')})`,
    );
    await database.query(
      `insert into numbers select i, ${NUMERICS.map(digits).join(', ')} from generate_series(1, ${NUMBERS}) i`,
    );
    await database.query(`create table days (id int primary key, ${DAY.map((type) => `${type}_ ${type}`).join(', ')});
      insert into days values (1, '2026-01-01', '2026-01-01', '2026-01-01')`);
    // Each in another order in the heap, and so in the file: one is sorted by DuckDB, one in part, one not.
    await database.query(`create table shuffled (id bigint primary key, note text);
      insert into shuffled select i * 4294967295 - 9000000000000, 'n' || i from generate_series(1, 6000) i order by i % 7, i;
      create table almost (id int primary key, note text, at timestamptz);
      insert into almost select i - 3000, nullif(repeat('x', i % 5), ''), timestamptz '2026-01-01' + i * interval '1 s' from generate_series(1, 6000) i;
      update almost set note = 'other' where id = 2000;
      create table lone (at timestamptz primary key);
      insert into lone select timestamptz '1999-12-31' + i * interval '1 minute' from generate_series(1, 6000) i;
      create table groups (id int primary key, note text);
      insert into groups select i, 'n' || i from generate_series(1, 260000) i`);
    await database.query('vacuum analyze');
    const { config, path } = testPipeline(database);
    await catchUp(config);
    const [identity] = await withDuckdb(path, (query) =>
      query('select system_identifier, timeline, slot, "database" from _waltide.identity'),
    );
    const [systemIdentifier, timeline, slot, name] = identity!.map(String);
    sink = createDuckdbSink(config.sinks[0] as Parameters<typeof createDuckdbSink>[0], log);
    await sink.open({ systemIdentifier: systemIdentifier!, timeline: Number(timeline), slot: slot!, database: name! });
    connect = () => connectSource(config.source, 'ranges');
    source = new SourceReader(connect, 2);
    const control = await connectSource(config.source, 'describing');
    for (const published of await listSourceTables(control, config.source.publication)) {
      const relation = await relationOf(control, published);
      const held = (await sink.digests!.describe(relation))!;
      tables.set(
        published.table,
        await describeSourceTable(control, published, held, relation, { only: null, maskOf: () => null, since: null }),
      );
    }
    await control.end();
    close = async () => {
      await source.close();
      await sink.close();
    };
  }, 300_000);
  afterAll(async () => {
    await close?.();
    await database?.drop();
  });

  const sides = (name: string, ...columns: string[]): Sides => {
    const table = tables.get(name)!;
    const chosen = columns.length === 0 ? table.columns : table.columns.filter((one) => columns.includes(one.name));
    const signal = AbortSignal.timeout(100_000);
    return { source, sink: sink.digests!, signal, table: { ...table, columns: chosen } };
  };
  const differing = (pairs: readonly Pair[]): Pair[] =>
    pairs.filter((pair) => pair.source.hash !== pair.sink.hash || pair.source.rows !== pair.sink.rows);

  it('are equal for every value of every type, and no two values have one', { timeout: 300_000 }, async () => {
    const texts = await printed(database.url, 'every');
    const ids = texts.map(([id]) => [String(id)]);
    expect(tables.get('every')!.columns.filter(({ sent }) => sent).length).toBeGreaterThanOrEqual(13);
    for (const [i, { type }] of types.entries()) {
      const { pairs } = await comparePairs(sides('every', `c${i}`), chain(null, [...ids, null]));
      expect(differing(pairs), type).toEqual([]);
      const expected = new Set(texts.map((row) => String(row[i + 1] ?? '\0')));
      expect(new Set(pairs.slice(0, -1).map(({ source: { hash } }) => hash)).size, type).toBe(expected.size);
    }
    const whole = await comparePairs(sides('every'), [{ after: null, upto: null }]);
    expect(differing(whole.pairs)).toEqual([]);
    expect(whole.pairs[0]!.sink.rows).toBe(texts.length);
  });

  it('are equal for decimals of every width, and all numbers', async () => {
    for (const [i, precision] of NUMERICS.entries()) {
      const ends = Array.from({ length: NUMBERS / 10 }, (_, n) => [String(n * 10)]);
      const { pairs } = await comparePairs(sides('numbers', `n${i}`), chain(null, [...ends, null]));
      const [wrong] = differing(pairs);
      const rows = wrong
        ? await database.query(`select n${i}::text from numbers where id between $1 and $2`, [
            Number(wrong.range.after?.[0] ?? 0) + 1,
            Number(wrong.range.upto?.[0] ?? NUMBERS),
          ])
        : [];
      expect(rows, precision).toEqual([]);
    }
  });

  it('are of what lies in the range, with keys of several columns, long values and NULL', async () => {
    const pass = sides('pairs');
    const seen: Pair[] = [];
    for await (const { pairs } of rangePass(pass, ['5', 'k5'], null)) seen.push(...pairs);
    expect(differing(seen)).toEqual([]);
    expect(seen.reduce((sum, pair) => sum + pair.source.rows, 0)).toBe(8995);
    expect(seen.length).toBeGreaterThanOrEqual(5);
    for (const [i, { range }] of seen.entries())
      expect(range.after).toEqual(i === 0 ? ['5', 'k5'] : seen[i - 1]!.range.upto);
    // As they are asked for when a range is narrowed down: with gaps, and without rows.
    const some = [
      { after: null, upto: ['7', 'k7'] },
      { after: ['100', 'k3'], upto: ['100', 'k3x'] },
      { after: ['8000', 'a'], upto: ['8010', 'z'] },
      { after: ['8999', ''], upto: null },
    ];
    const { pairs } = await comparePairs(pass, some);
    expect(pairs.map((pair) => [pair.source.rows, pair.sink.rows])).toEqual([
      [7, 7],
      [0, 0],
      [11, 11],
      [2, 2],
    ]);
    expect(differing(pairs)).toEqual([]);
  });

  it('do not depend on the order in which rows lie', async () => {
    // The last one lies in several row groups of DuckDB.
    for (const [name, rows] of Object.entries({ shuffled: 6000, almost: 6000, lone: 6000, groups: 260_000 }))
      for (const _ of [1, 2]) {
        const seen: Pair[] = [];
        for await (const { pairs } of rangePass(sides(name), null, null)) seen.push(...pairs);
        expect(differing(seen), name).toEqual([]);
        expect(
          seen.reduce((sum, pair) => sum + pair.sink.rows, 0),
          name,
        ).toBe(rows);
      }
  });

  it('make do with the sessions that the server allows', async () => {
    let opened = 0;
    const reader = new SourceReader(async () => {
      if (opened > 0) throw new Error('sorry, too many clients already');
      opened++;
      return connect();
    }, 4);
    let rows = 0;
    for await (const { pairs } of rangePass({ ...sides('shuffled'), source: reader }, null, null))
      for (const pair of pairs) rows += pair.source.rows;
    for await (const { pairs } of rangePass({ ...sides('pairs'), source: reader }, null, null))
      for (const pair of pairs) rows += pair.source.rows;
    await reader.close();
    expect([rows, opened]).toEqual([15_000, 1]);
    const none = new SourceReader(() => Promise.reject(new Error('sorry, too many clients already')), 2);
    await expect(none.digests(tables.get('pairs')!, [{ after: null, upto: null }])).rejects.toThrow('too many clients');
    await none.close();
  });

  it('go on under a limit, one at a time, and leave nothing behind when the caller goes away', async () => {
    let rows = 0;
    for await (const { pairs } of rangePass(sides('pairs'), null, 1000)) {
      expect(pairs).toHaveLength(1);
      rows += pairs[0]!.source.rows;
    }
    expect(rows).toBe(9000);
    const pass = sides('pairs');
    let [begun, ended] = [0, 0];
    const counting: Sides = {
      ...pass,
      sink: Object.create(pass.sink, {
        digests: {
          value: async (...asked: Parameters<typeof pass.sink.digests>) => {
            begun++;
            const found = await pass.sink.digests(...asked);
            ended++;
            return found;
          },
        },
      }),
    };
    for await (const { last } of rangePass({ ...counting, table: { ...pass.table } }, null, 1_000_000))
      if (!last) break;
    for await (const _ of rangePass(counting, null, null)) break;
    expect(ended).toBe(begun);
  });
});
