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

/** Rows of a second. What goes on in another process is as quick as it can; until then it must not be over. */
const SLOW = 10;

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

/** Wide rows move below the cursor of a paused snapshot; the WAL does not carry all of their values. */
async function beginAndMove(rate: number, snapshot: ConfigInput['snapshot'] = {}): Promise<void> {
  await begin(
    `create table t (id int primary key, a int, v text); alter table t alter v set storage external;
     insert into t select i, i, repeat(md5(i::text), 100) from generate_series(1, 600) i`,
    { chunkBytesMax: 65_536, ...snapshot },
    rate,
  );
  await pause();
  await database.query('update t set id = -id where id > 150');
  await eventually('streamed', async () => {
    const found = await running!.pipeline.query('select count(*)::int from t where id < 0', {
      rowsMax: 1,
      timeoutMs: 5000,
    });
    return found.rows[0]![0] === 450;
  });
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
    await begin(TABLE, {}, SLOW);
    await running!.stop();
    expect(await state()).toBe('running');
    await database.query('alter table t add b int default 7');
    await database.query('update waltide.snapshots set rows_per_second_max = null');
    running = start(config);
    await equal();
  });

  it('goes on from its cursor where the table is as it was', async () => {
    await begin(TABLE, {}, SLOW);
    await running!.stop();
    const done = await rowsDone();
    await database.query('alter table t alter a set default 3');
    await resume();
    running = start(config);
    await equal();
    expect(await rowsDone()).toBe(1000);
    expect(done).toBeLessThan(1000);
  });

  it('is not over at once where a column comes while only moved rows are left', async () => {
    await beginAndMove(60);
    await resume();
    const before = await rowsDone();
    await eventually('moved rows are read', async () => (await rowsDone()) > before + 120);
    // Should the last of it be read by now, nothing else would tell of the column.
    await database.query("alter table t add b int default 7; insert into t (id, a, v) values (100000, 1, 'v')");
    await equal();
  });

  it('reads every row that moved, also where they are too many bytes for one chunk', async () => {
    await beginAndMove(SLOW);
    await running!.stop();
    await resume();
    running = start(config);
    await equal();
  });

  it('begins again where more rows moved than it may remember', async () => {
    await beginAndMove(SLOW, { notedKeysMax: 50 });
    await eventually('saved', async () => {
      const [row] = await database.query('select layout, jsonb_array_length(rereads) as n from waltide.snapshots');
      return row!.layout === null && row!.n === 0;
    });
    await running!.stop();
    await resume();
    running = start(config);
    await equal();
  });
});

describe('a snapshot of a table with a long key', () => {
  it('keeps rows whose key an UPDATE does not carry', async () => {
    await begin(
      `create table t (k text primary key, a int, v text); alter table t alter k set storage external, alter v set storage external;
       insert into t select left((select string_agg(md5(i || '/' || g), '') from generate_series(1, 80) g), 2500), i, repeat(md5(i::text), 100) from generate_series(1, 300) i`,
      { chunkRows: 40 },
      60,
    );
    for (let round = 0; round < 4; round++) {
      const before = await rowsDone();
      await database.query('update t set a = a + 1');
      await eventually('a chunk', async () => (await rowsDone()) > before || (await state()) === 'completed');
    }
    await equal();
  });
});
