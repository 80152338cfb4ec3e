import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, type RunningPipeline, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let running: RunningPipeline | null = null;

beforeEach(async () => {
  database = await createDatabase();
});
afterEach(async () => {
  await running?.stop();
  running = null;
  await database.drop();
});

const FAST = { snapshot: { tablesIntervalMs: 150, chunkRows: 40 } };

/** Stops, catches up, and compares. */
async function equal(config: Config, path: string, tables: readonly string[]): Promise<void> {
  await running?.stop();
  running = null;
  expect(await catchUp(config)).toEqual([]);
  expect(await withDuckdb(path, (query) => differences(database.url, query, tables))).toEqual([]);
}

/** Waits for so many completed snapshots of a table. */
const completed = (table: string, count = 1): Promise<void> =>
  eventually(`${count} snapshots of ${table}`, async () => {
    const [row] = await database.query(
      `select count(*)::int as n from waltide.snapshots where table_name = $1 and state = 'completed'`,
      [table],
    );
    return row!.n === count;
  });

describe('tables that come and go while it runs', () => {
  it('takes in a new table with its rows, those of a transaction that was open included', async () => {
    const { config, path } = testPipeline(database, FAST);
    await database.query('create table old (id int primary key)');
    running = start(config);
    await eventually('streaming', () => running!.pipeline.status().state === 'streaming');
    await database.query('create table fresh (id int primary key, t text)');
    // It has written before the table is published, so those rows are not in the stream; it commits after.
    const open = new pg.Client(database.url);
    await open.connect();
    await open.query("begin; insert into fresh select i, 'open' from generate_series(1, 100) i");
    await eventually('published', async () => {
      const rows = await database.query("select from pg_publication_tables where tablename = 'fresh'");
      return rows.length === 1;
    });
    await database.query("insert into fresh select i, 'after' from generate_series(200, 300) i");
    await open.query("update fresh set t = 'changed' where id < 20; commit");
    await open.end();
    await completed('fresh');
    await database.query("update fresh set t = 'streamed' where id = 250; delete from fresh where id = 1");
    await equal(config, path, ['public.old', 'public.fresh']);
  });

  it('fills a table again that was taken out of a publication by hand and put back', async () => {
    await database.query(
      'create table t (id int primary key, n int); insert into t select i, 0 from generate_series(1, 200) i; create table u (id int primary key)',
    );
    await database.query('create publication theirs for table t, u');
    const { config, path } = testPipeline(database, FAST, { publication: 'theirs', tables: ['public.t', 'public.u'] });
    running = start(config);
    await eventually('streaming', () => running!.pipeline.status().source?.connected === true);
    await database.query('alter publication theirs drop table t');
    await database.query(
      'update t set n = 1 where id <= 50; delete from t where id > 150; insert into t values (1000, 1)',
    );
    await database.query('alter publication theirs add table t');
    await completed('t');
    await database.query('update t set n = n + 1 where id % 2 = 0');
    await equal(config, path, ['public.t', 'public.u']);
    // A row filter is another way to be published.
    running = start(config);
    await eventually('streaming', () => running!.pipeline.status().source?.connected === true);
    await database.query('alter publication theirs set table t where (id < 100), u');
    await completed('t', 2);
    await running.stop();
    running = null;
    expect(await withDuckdb(path, (query) => query('select max(id) from t'))).toEqual([[99]]);
  });

  it('goes on without a table that is dropped, and fails its snapshot with the reason', async () => {
    const { config, path } = testPipeline(database, FAST);
    await database.query(
      'create table doomed (id int primary key); insert into doomed select generate_series(1, 5000); create table t (id int primary key)',
    );
    await catchUp(config);
    await database.query(
      `insert into waltide.snapshots (id, slot_name, table_oid, schema_name, table_name, rows_per_second_max, reason)
       select 'doomed', $1, 'doomed'::regclass, 'public', 'doomed', 500, 'test'`,
      [database.name],
    );
    running = start(config);
    await eventually('under way', async () => {
      const [row] = await database.query("select rows_done::int as n from waltide.snapshots where id = 'doomed'");
      return (row!.n as number) > 0;
    });
    await database.query('drop table doomed; insert into t values (1)');
    await eventually('failed', async () => {
      const [row] = await database.query("select state, error from waltide.snapshots where id = 'doomed'");
      return row!.state === 'failed' || row!.state === 'cancelled';
    });
    await database.query('insert into t values (2)');
    await equal(config, path, ['public.t']);
    // Its rows stay as they are.
    expect(await withDuckdb(path, (query) => query('select count(*) from doomed'))).toEqual([[5000n]]);
  });

  it('begins again where the table is altered under its snapshot', async () => {
    const { config, path } = testPipeline(database, FAST);
    await database.query(
      'create table t (id int primary key, a int, gone text); insert into t select i, i from generate_series(1, 800) i',
    );
    await catchUp(config);
    running = start(config);
    for (const [i, change] of [
      'alter table t add b int default 7',
      'alter table t drop gone',
      'alter table t alter a type bigint',
      'alter table t rename a to c',
      "alter table t add d text; update t set d = 'x' where id % 3 = 0",
    ].entries()) {
      await database.query(
        `insert into waltide.snapshots (id, slot_name, table_oid, schema_name, table_name, rows_per_second_max, reason)
         select $2, $1, 't'::regclass, 'public', 't', 1500, 'test'`,
        [database.name, `s${i}`],
      );
      await eventually('under way', async () => {
        const [row] = await database.query('select rows_done::int as n from waltide.snapshots where id = $1', [
          `s${i}`,
        ]);
        return (row!.n as number) > 0;
      });
      await database.query(change);
      await database.query('update t set id = id + 10000 where id % 7 = 0 and id < 10000');
      await completed('t', i + 1);
    }
    await running.stop();
    running = null;
    await catchUp(config);
    const source = await database.query('select id, c, b, d from t order by id');
    const target = await withDuckdb(path, (query) => query('select id, c, b, d from t order by id'));
    expect(target.map((row) => row.map(String))).toEqual(source.map(({ id, c, b, d }) => [id, c, b, d].map(String)));
  });

  it('fails one table that may not be read, and takes in the others', async () => {
    const { config, path } = testPipeline(database, FAST);
    await database.query('create table t (id int primary key)');
    await catchUp(config);
    const role = `r_${database.name}`;
    await database.query(
      `create role ${role} login replication bypassrls password 'pw'; grant all on schema public, waltide to ${role}; grant all on all tables in schema waltide, public to ${role};
       alter publication ${database.name} owner to ${role}; grant create on database ${database.name} to ${role}`,
    );
    await database.query('create table closed (id int primary key); insert into closed values (1)');
    const url = new URL(database.url);
    url.username = role;
    url.password = 'pw';
    await database.query(`create publication p_${database.name} for all tables`);
    const limited = {
      ...config,
      source: { ...config.source, url: url.href, publication: `p_${database.name}` },
    };
    running = start(limited);
    await eventually('it failed', async () => {
      const rows = await database.query(
        "select error from waltide.snapshots where table_name = 'closed' and state = 'failed'",
      );
      return rows.length > 0 && /may not read|permission denied/.test(rows[0]!.error as string);
    });
    await database.query('insert into t values (1)');
    await running.stop();
    running = null;
    await database.query(`grant select on closed to ${role}`);
    await catchUp(limited);
    expect(await withDuckdb(path, (query) => differences(database.url, query, ['public.t', 'public.closed']))).toEqual(
      [],
    );
    await database.query(`reassign owned by ${role} to current_user; drop owned by ${role}; drop role ${role}`);
  });
});
