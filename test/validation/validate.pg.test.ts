import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ValidationReport, ValidationRequest } from '../../src/validation/report.ts';
import { damage } from '../support/compare.ts';
import {
  catchUp,
  eventually,
  type RunningPipeline,
  start,
  type TestPipeline,
  testPipeline,
} from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

describe('validate', () => {
  let database: TestDatabase;
  let test: TestPipeline;
  let running: RunningPipeline | null = null;
  beforeAll(async () => {
    database = await createDatabase();
    await database.query(`
      create table orders (id bigint primary key, status text not null, amount numeric(12,2), note text, rate float8, tags text[], at timestamptz);
      insert into orders select i, 'new', i / 7.0, case when i % 3 > 0 then 'note ' || i end, sqrt(i), array['a', i::text], '2026-01-01'::timestamptz + i * interval '1.5 s'
        from generate_series(1, 20000) i;
      create table pairs (a int, b text, v text, primary key (a, b));
      insert into pairs select i % 10, 'b' || i, repeat('x', i % 500) from generate_series(1, 3000) i;
      create table log (line text, n int);
      insert into log select 'line ' || i % 100, i % 7 from generate_series(1, 2000) i;
      analyze`);
    test = testPipeline(database, {}, { keylessTables: 'insert-only' });
    await catchUp(test.config);
  });
  afterAll(async () => {
    await running?.stop();
    await database?.drop();
  });

  async function validate(request: ValidationRequest = {}): Promise<ValidationReport> {
    running ??= start(test.config);
    await eventually('streaming', () => running!.pipeline.status().state === 'streaming');
    return running.pipeline.validate(request, { signal: AbortSignal.timeout(60_000) });
  }
  async function plant(...statements: string[]): Promise<void> {
    await running?.stop();
    running = null;
    await damage(test.path, ...statements);
  }
  const brief = (report: ValidationReport) =>
    report.tables.map(({ table, sourceRows, sinkRows, missing, extra, different, unsettled, repaired }) => [
      table,
      sourceRows,
      sinkRows,
      missing,
      extra,
      different,
      unsettled,
      repaired,
    ]);

  it('says that equal tables are equal', async () => {
    const report = await validate();
    expect(brief(report)).toEqual([
      ['public.log', 2000, 2000, 0, 0, 0, 0, 0],
      ['public.orders', 20000, 20000, 0, 0, 0, 0, 0],
      ['public.pairs', 3000, 3000, 0, 0, 0, 0, 0],
    ]);
    expect(report).toMatchObject({ ok: true, score: 100 });
    for (const table of report.tables) expect(table.sinkDigest).toBe(table.sourceDigest);
  });

  it('finds what is missing, extra and different, and repairs it', async () => {
    await plant(
      'delete from orders where id in (7, 19999)',
      'insert into orders by name (select 30000 + id as id, * exclude id from orders where id < 4)',
      `update orders set note = '' where id = 3`,
      `update orders set rate = rate + 1e-14 where id = 777`,
      `update orders set tags = ['b', 'a'] where id = 15000`,
      'insert into orders from orders where id = 50',
      `update pairs set v = v || ' ' where b = 'b77'`,
      `delete from pairs where b = 'b78'`,
      `update log set n = n + 1 where rowid = (select min(rowid) from log)`,
    );
    const found = await validate();
    expect(brief(found)).toEqual([
      ['public.log', 2000, 2000, 1, 1, 0, 0, 0],
      ['public.orders', 20000, 20002, 2, 4, 3, 0, 0],
      ['public.pairs', 3000, 2999, 1, 0, 1, 0, 0],
    ]);
    expect(found.ok).toBe(false);
    const orders = found.tables[1]!;
    const by = (kind: string) =>
      orders.differences
        .filter((one) => one.kind === kind)
        .map(({ key }) => key[0]!)
        .sort();
    expect([by('missing'), by('extra'), by('different')]).toEqual([
      ['19999', '7'],
      ['30001', '30002', '30003', '50'],
      ['15000', '3', '777'],
    ]);
    expect(orders.differences.find(({ key }) => key[0] === '3')!.columns).toEqual([
      { name: 'note', source: null, sink: '' },
    ]);
    expect(found.tables[2]!.differences.map(({ key }) => key)).toEqual(
      expect.arrayContaining([
        ['7', 'b77'],
        ['8', 'b78'],
      ]),
    );
    const repaired = await validate({ repair: true });
    expect(brief(repaired)).toEqual([
      ['public.log', 2000, 2000, 0, 0, 0, 0, 2],
      ['public.orders', 20000, 20000, 0, 0, 0, 0, 9],
      ['public.pairs', 3000, 3000, 0, 0, 0, 0, 2],
    ]);
    expect(await validate()).toMatchObject({ ok: true, score: 100 });
  });
});
