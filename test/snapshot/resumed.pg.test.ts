import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Config, ConfigInput } from '../../src/config/schema.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, type RunningPipeline, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let config: Config;
let path: string;
let running: RunningPipeline | null = null;

beforeEach(async () => {
  database = await createDatabase();
});
afterEach(async () => {
  await running?.stop();
  running = null;
  await database.drop();
});

const rowsDone = async (): Promise<number> =>
  (await database.query('select rows_done::int as n from waltide.snapshots'))[0]!.n as number;
const state = async (): Promise<unknown> => (await database.query('select state from waltide.snapshots'))[0]!.state;

/** Copies the table, and begins to read it again, slowly. */
async function begin(ddl: string, snapshot: ConfigInput['snapshot'], rate: number): Promise<void> {
  ({ config, path } = testPipeline(database, { snapshot: { chunkRows: 40, tablesIntervalMs: 200, ...snapshot } }));
  await database.query(ddl);
  await catchUp(config);
  running = start(config);
  await database.query(
    `insert into waltide.snapshots (id, slot_name, table_oid, schema_name, table_name, rows_per_second_max, reason)
     select 'one', $1, 't'::regclass, 'public', 't', $2, 'test'`,
    [database.name, rate],
  );
  await eventually('under way', async () => (await rowsDone()) > 0);
}

/** Resolves once nothing reads the table any more. */
async function pause(): Promise<void> {
  await database.query("update waltide.snapshots set state = 'paused'; notify waltide_snapshots");
  await eventually('paused', async () => {
    const [row] = await database.query(
      "select count(*)::int as n from pg_stat_activity where datname = current_database() and application_name like '%snapshot one%'",
    );
    return row!.n === 0;
  });
}

async function resume(): Promise<void> {
  await database.query(
    "update waltide.snapshots set state = 'pending', rows_per_second_max = null; notify waltide_snapshots",
  );
}

async function equal(): Promise<void> {
  await eventually('completed', async () => (await state()) === 'completed');
  await running?.stop();
  running = null;
  expect(await catchUp(config)).toEqual([]);
  expect(await withDuckdb(path, (query) => differences(database.url, query, ['public.t']))).toEqual([]);
}

const TABLE = 'create table t (id int primary key, a int); insert into t select i, i from generate_series(1, 1000) i';

describe('a snapshot that goes on', () => {
  it('begins again where the table was altered while it was paused', async () => {
    await begin(TABLE, {}, 300);
    await pause();
    await database.query('alter table t add b int default 7');
    await resume();
    await equal();
  });

  it('begins again where the table was altered while no process ran', async () => {
    await begin(TABLE, {}, 300);
    await running!.stop();
    expect(await state()).toBe('running');
    await database.query('alter table t add b int default 7');
    await database.query('update waltide.snapshots set rows_per_second_max = null');
    running = start(config);
    await equal();
  });

  it('goes on from its cursor where the table is as it was', async () => {
    await begin(TABLE, {}, 300);
    await running!.stop();
    const done = await rowsDone();
    await database.query('alter table t alter a set default 3');
    running = start(config);
    await resume();
    await equal();
    expect(await rowsDone()).toBe(1000);
    expect(done).toBeLessThan(1000);
  });
});
