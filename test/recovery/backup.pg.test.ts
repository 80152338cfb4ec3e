import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parseLsn } from '../../src/event/lsn.ts';
import { backUpSink } from '../../src/sink/registry.ts';
import type { BackedUp } from '../../src/sink/upkeep.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { eventually, type RunningPipeline, start, type TestPipeline, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let pipeline: TestPipeline;
let running: RunningPipeline | null;
let to: string;
beforeEach(async () => {
  database = await createDatabase();
  pipeline = testPipeline(database);
  running = null;
  to = join(mkdtempSync(join(tmpdir(), 'waltide-backup-')), 'a.duckdb');
});
afterEach(async () => {
  await running?.stop();
  await database.drop();
});

async function stream(): Promise<RunningPipeline> {
  running = start(pipeline.config);
  await eventually('it streams', () => running!.pipeline.status().ready);
  return running;
}

const backedUp = (): Promise<BackedUp> => {
  const live = running?.pipeline.sink('analytics') ?? null;
  return backUpSink(pipeline.config.sinks[0]!, live, to, { signal: new AbortController().signal, note: () => {} });
};

/** Whoever opens the file beside the one that has it must be refused: two writers would ruin it. */
function opensElsewhere(path: string): boolean {
  const code = `import('@duckdb/node-api').then(({ DuckDBInstance }) => DuckDBInstance.create(process.argv[1])).then(() => process.exit(0), () => process.exit(3))`;
  try {
    execFileSync(process.execPath, ['-e', code, path], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

test('taken again and again under load, each backup is the source as of its LSN', async () => {
  await database.query(`create table ledger (id int primary key, balance int, note text);
    insert into ledger select i, 0, repeat('x', 200) from generate_series(1, 5000) i;
    create table log (n int primary key, at_lsn pg_lsn)`);
  await stream();
  let writing = true;
  let n = 0;
  const writer = (async () => {
    while (writing) {
      // The sum is 0 after each transaction, the log has no gap, and rows are rewritten, deleted and inserted in numbers.
      n++;
      await database.query(`begin; update ledger set balance = balance + 1 where id % 100 = ${n % 100};
        update ledger set balance = balance - 1 where id % 100 = ${(n + 37) % 100};
        delete from ledger where id > 100000; insert into ledger select 100000 + i, 0, repeat(md5((i * ${n})::text), 20) from generate_series(1, 2000) i;
        insert into log values (${n}, pg_current_wal_insert_lsn()); commit`);
    }
  })();
  try {
    for (let i = 0; i < 8; i++) {
      const { lsn, tables } = await backedUp();
      expect(tables.map(({ table }) => table)).toEqual(['ledger', 'log']);
      await withDuckdb(to, async (query) => {
        const [[sum, count, gaps, last]] = (await query(
          `select (select sum(balance) from ledger)::int, (select count(*) from ledger)::int,
                  (select coalesce(max(n), 0) - count(*) from log)::int, (select arg_max(at_lsn, n) from log)`,
        )) as [[number, number, number, string | null]];
        expect([sum, gaps]).toEqual([0, 0]);
        expect([5000, 7000]).toContain(count);
        if (last !== null) expect(parseLsn(last) <= parseLsn(lsn)).toBe(true);
        const [[offset]] = (await query('select commit_lsn from _waltide.offsets')) as [[bigint]];
        expect(offset).toBe(parseLsn(lsn));
      });
    }
    expect(opensElsewhere(pipeline.path)).toBe(false);
  } finally {
    writing = false;
    await writer;
  }
  expect(n).toBeGreaterThan(8);
  await running!.stop();
  running = null;
  // What was copied so often is none the worse for it.
  const { catchUp } = await import('../support/pipeline.ts');
  await catchUp(pipeline.config);
  expect(
    await withDuckdb(pipeline.path, (query) => differences(database.url, query, ['public.ledger', 'public.log'])),
  ).toEqual([]);
  expect(readdirSync(dirname(to))).toEqual(['a.duckdb']);
}, 300_000);

test('is taken from the file while nothing runs, and replaces no directory and not the file itself', async () => {
  await database.query('create table t (id int primary key); insert into t select generate_series(1, 10)');
  await stream();
  await running!.stop();
  running = null;
  writeFileSync(to, 'what somebody needs');
  await expect(backedUp()).rejects.toMatchObject({ code: 'USAGE', message: expect.stringContaining('no backup') });
  expect(readFileSync(to, 'utf8')).toBe('what somebody needs');
  rmSync(to);
  for (let time = 1; time <= 2; time++) expect(await backedUp()).toMatchObject({ tables: [{ table: 't', rows: 10 }] });
  expect(await withDuckdb(to, (query) => query('select count(*)::int from t'))).toEqual([[10]]);
  to = dirname(to);
  await expect(backedUp()).rejects.toMatchObject({ code: 'USAGE' });
  to = pipeline.path;
  await expect(backedUp()).rejects.toMatchObject({ code: 'USAGE' });
}, 120_000);
