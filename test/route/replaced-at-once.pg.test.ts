import { afterEach, beforeEach, expect, it } from 'vitest';
import { damage, differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { smallDisk } from '../support/small-disk.ts';
import { askForSnapshot } from '../support/snapshots.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

const LIMITS = { rowsMax: 10, timeoutMs: 20_000 };

it('a table that is read again is replaced at once: a reader sees the old one or the new one, never half', async () => {
  await database.query(
    "create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, 5000) i",
  );
  const { config, path } = testPipeline(database, { snapshot: { chunkRows: 200, tablesIntervalMs: 300 } });
  await catchUp(config);
  // What the source does not know of: rows that are not there, and one that is missing.
  await damage(
    path,
    "update t set v = 'old'",
    "insert into t select i, 'old' from range(10001, 10101) r(i)",
    'delete from t where id = 17',
  );
  const running = start(config);
  const seen = new Set<string>();
  try {
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    const look = async (): Promise<void> => {
      const { rows } = await running.pipeline.query('select v, count(*)::int from t group by v order by v', LIMITS);
      seen.add(JSON.stringify(rows));
    };
    await look();
    await askForSnapshot(database, config, 't');
    await eventually('the new one is there', async () => {
      await look();
      return seen.has('[["v",5000]]');
    });
  } finally {
    await running.stop();
  }
  expect([...seen]).toEqual(['[["old",5099]]', '[["v",5000]]']);
  expect(await withDuckdb(path, (run) => differences(database.url, run, ['public.t']))).toEqual([]);
});

it('a sink whose disk is full holds the slot back, loses nothing, and goes on once there is room', async () => {
  await database.query('create table t (id int primary key, v text)');
  const { config, path } = testPipeline(database, { transport: { type: 'in-process', inFlightBytesMax: 2_000_000 } });
  const folder = path.replace(/[^/]+$/, '');
  const disk = smallDisk(folder, '24m');
  if (!disk) throw new Error('mounting a small file system takes root');
  try {
    await catchUp(config);
    const running = start(config);
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    for (let i = 0; i < 10; i++)
      await database.query(
        `insert into t select i, (select string_agg(md5(random()::text || i || j), '') from generate_series(1, 10) j)
         from generate_series($1::int, $2::int) i`,
        [i * 10_000, i * 10_000 + 9999],
      );
    await eventually(
      'the sink says so',
      () => /full|space/i.test(running.pipeline.status().sinks[0]?.lastError ?? ''),
      300_000,
    );
    expect(running.pipeline.status().ready).toBe(false);
    const [slot] = await database.query(
      'select pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::float8 as behind from pg_replication_slots where slot_name = $1',
      [database.name],
    );
    expect(slot!.behind).toBeGreaterThan(5_000_000);
    disk.grow('600m');
    await eventually('it goes on', () => running.pipeline.status().ready, 90_000);
    await running.stop();
    expect(await catchUp(config)).toEqual([]);
    expect(await withDuckdb(path, (run) => differences(database.url, run, ['public.t']))).toEqual([]);
  } finally {
    disk.remove();
  }
});
