import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { parseLsn } from '../../src/event/lsn.ts';
import { Pipeline } from '../../src/pipeline/pipeline.ts';
import { connect } from '../../src/postgres/connection.ts';
import { installDdlCapture } from '../../src/postgres/ddl-capture.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, log, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { askForSnapshot } from '../support/snapshots.ts';

let database: TestDatabase;
let config: Config;
let path: string;

beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

async function begin(schema: string, sink: object = {}): Promise<void> {
  await database.query(schema);
  ({ config, path } = testPipeline(database));
  config = { ...config, sinks: config.sinks.map((one) => ({ ...one, ...sink })) };
  await catchUp(config);
  await withClient(installDdlCapture);
  await catchUp(config);
}

async function withClient<T>(work: (client: Awaited<ReturnType<typeof connect>>) => Promise<T>): Promise<T> {
  const client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
  return work(client).finally(() => client.end());
}

const compare = (...tables: string[]): Promise<string[]> =>
  withDuckdb(path, (query) => differences(database.url, query, tables));
const rows = (sql: string): Promise<readonly (readonly unknown[])[]> => withDuckdb(path, (query) => query(sql));

it('rows that come and go with partitions, and types that change inside of others', async () => {
  await begin(`create table root (id int primary key, v text) partition by range (id);
    create table p1 partition of root for values from (0) to (10); create table p2 partition of root for values from (10) to (20);
    insert into root select i, 'row ' || i from generate_series(0, 19) i;
    create type mood as enum ('sad', 'ok'); create type pair as (a int, m mood); create domain dom as mood;
    create table t (id int primary key, p pair, d dom, r int4range);
    insert into t values (1, (1, 'sad'), 'sad', '[1,3)'), (2, null, 'ok', null)`);
  for (const statement of [
    'alter table root detach partition p1',
    'delete from p1 where id = 3; alter table root attach partition p1 for values from (0) to (10)',
    'drop table p2',
    'create table p3 partition of root for values from (20) to (30); insert into root values (25, null)',
    "alter table root add n int default 7; alter table root rename v to w; update root set w = 'new' where id = 25",
    "alter type mood rename value 'sad' to 'blue'",
    'alter type pair add attribute z text',
    "insert into t values (3, (5, 'blue', 'z'), 'blue', 'empty')",
    'alter table t alter id type bigint, add k serial, drop r',
    'alter table root drop n',
  ]) {
    await database.query(statement);
    expect(await catchUp(config), statement).toEqual([]);
    expect(await compare('public.root', 'public.t'), statement).toEqual([]);
  }
});

it('a table that DuckDB cannot follow is set aside alone, and comes back once it can', async () => {
  await begin(
    'create table a (id int primary key, v int); create table b (id int primary key); insert into a values (1, 1)',
  );
  await database.query('alter table a add "V" int; insert into a values (2, 2, 2); insert into b values (1)');
  expect(await catchUp(config)).toMatchObject([
    { table: 'public.a', reason: expect.stringMatching(/differ in case only/) },
  ]);
  expect(await compare('public.b')).toEqual([]);
  expect(await rows('select * from a')).toEqual([[1, 1]]);
  await database.query('alter table a rename "V" to w; insert into a values (3, 3, 3)');
  await catchUp(config);
  await askForSnapshot(database, config, 'a');
  expect(await catchUp(config)).toEqual([]);
  expect(await compare('public.a', 'public.b')).toEqual([]);
});

it('pause-table waits for a person', async () => {
  await begin('create table a (id int primary key); create table b (id int primary key)', {
    schemaChanges: 'pause-table',
  });
  await database.query(
    'insert into a values (1); alter table a add v int default 5; insert into a values (2); insert into b values (1)',
  );
  expect(await catchUp(config)).toMatchObject([
    { table: 'public.a', reason: expect.stringMatching(/added column v.*pause-table/) },
  ]);
  expect(await compare('public.b')).toEqual([]);
  await askForSnapshot(database, config, 'a');
  expect(await catchUp(config)).toEqual([]);
  expect(await compare('public.a', 'public.b')).toEqual([]);
});

it('pause-table waits for a person however long the pipeline runs', async () => {
  await begin('create table a (id int primary key)', { schemaChanges: 'pause-table' });
  const running = start(config);
  try {
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    await database.query('alter table a add v int default 5; insert into a values (2)');
    await eventually('it is paused', () => running.pipeline.status().sinks[0]!.stopped.length === 1);
    // More than two of the looks that ask for what a sink lacks.
    await new Promise((resolve) => setTimeout(resolve, 2500));
    expect(await database.query('select * from waltide.snapshots')).toEqual([]);
    expect(running.pipeline.status().sinks[0]!.stopped).toHaveLength(1);
  } finally {
    await running.stop();
  }
});

it('key and replica identity change in the middle of everything', async () => {
  await begin(
    "create table t (id int, k int not null, v text, primary key (id)); insert into t select i, i % 3, 'v' from generate_series(1, 30) i",
  );
  await database.query(`begin; update t set v = 'a' where id < 5; alter table t replica identity full; update t set v = 'b' where id between 3 and 8;
    alter table t drop constraint t_pkey, add primary key (k, id); update t set k = k + 10 where id < 10; delete from t where id = 9;
    alter table t replica identity default; update t set id = id + 100 where id between 10 and 12; delete from t where k = 0;
    alter table t drop constraint t_pkey; alter table t replica identity full; insert into t values (1, 1, 'twice'), (1, 1, 'twice');
    update t set v = 'c' where id = 5; delete from t where ctid = (select min(ctid) from t where v = 'twice'); commit`);
  expect(await catchUp(config)).toEqual([]);
  expect(await compare('public.t')).toEqual([]);
});

it.each([true, false])('a replay across schema changes ends at the source (capture trigger: %s)', async (trigger) => {
  await database.query('create table t (id int primary key, v text); create table other (id int primary key, v text)');
  ({ config, path } = testPipeline(database, {}, { retain: { bytes: 1e9 } }));
  await catchUp(config);
  if (trigger) await withClient(installDdlCapture);
  const [begin] = await database.query('select pg_current_wal_lsn()::text as lsn');
  for (const statement of [
    "insert into t values (1, 'a'), (2, 'b'); insert into other values (1, 'a')",
    "alter table t add n int default 7; update t set v = 'c' where id = 1; insert into t values (3, 'd', 8)",
    'alter table t alter n type bigint; insert into t values (4, null, 5000000000); delete from t where id = 2',
    "alter table t drop v; insert into t values (5, 9); update other set v = 'z'",
  ])
    await database.query(statement);
  expect(await catchUp(config)).toEqual([]);
  const before = await rows('select * from t order by id');
  const replay = { sink: 'analytics', tables: null, from: { lsn: parseLsn(begin!.lsn as string) } };
  await new Pipeline({ config, role: 'all', log, replay }).run('rewound', AbortSignal.timeout(120_000));
  expect(await catchUp(config)).toEqual([]);
  // Where the sink copied the table again, the copy goes on beside the stream.
  expect(await catchUp(config)).toEqual([]);
  if (trigger) expect(await rows('select * from t order by id')).toEqual(before);
  expect(await compare('public.t', 'public.other')).toEqual([]);
});
