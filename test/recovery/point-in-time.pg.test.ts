import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { cli, makeProject, type Running, start } from '../cli/support.ts';
import { damage, differences, withDuckdb } from '../support/compare.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
let running: Running | null;

beforeEach(async () => {
  running = null;
  database = await createDatabase();
  await database.query(`create table orders (id int primary key, total int); create table items (id int primary key);
    insert into orders select i, 10 from generate_series(1, 300) i; insert into items select generate_series(1, 100)`);
  project = await makeProject({
    source: {
      url: database.url,
      slot: database.name,
      publication: database.name,
      tables: ['public.*'],
      heartbeatIntervalMs: 200,
      retain: { bytes: 500_000_000 },
    },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
  });
});
afterEach(async () => {
  running?.child.kill('SIGKILL');
  await running?.end();
  await database.drop();
  await project.remove();
});

const run = (...argv: string[]) => cli(project.dir, ...argv);
const path = (): string => join(project.dir, 'a.duckdb');
const ask = (sql: string) => withDuckdb(path(), (query) => query(sql));
const equal = (): Promise<string[]> =>
  withDuckdb(path(), (query) => differences(database.url, query, ['public.orders', 'public.items']));
const now = async (): Promise<string> => {
  const [row] = await database.query('select clock_timestamp() as at');
  return (row!.at as Date).toISOString();
};

async function stream(): Promise<void> {
  running = start(project.dir, 'run');
  await eventually('it streams', async () => (await run('status')).stdout.includes('streaming'));
}

async function stop(): Promise<void> {
  running!.child.kill('SIGTERM');
  await running!.end();
  running = null;
}

test('the sink as it was right before a mistake: a backup, and what came after it up to that time', async () => {
  await stream();
  // It is noted now and then where the WAL is: a time from before the slot's first is none that it could go back to.
  await eventually('a time is known from when the slot was there', async () => {
    const known = await database.query(
      `select from waltide.positions where lsn > (select confirmed_flush_lsn from pg_replication_slots where slot_name = $1)`,
      [database.name],
    );
    return known.length > 0;
  });
  const since = await now();
  await sleep(50);
  // An idle sink may stand before what is noted of that time, and a replay from where it has not been is refused.
  await database.query('update items set id = id');
  const [{ lsn } = {}] = await database.query('select pg_current_wal_lsn()::text as lsn');
  expect((await run('wait', '--lsn', lsn as string)).code).toBe(0);
  expect((await run('backup', '--to', 'saved.duckdb')).code).toBe(0);
  await database.query('update orders set total = 20 where id <= 100; insert into orders values (301, 30)');
  await sleep(50);
  const good = await now();
  await sleep(50);
  await database.query('update orders set total = 0; delete from orders where id > 250');
  await stop();
  expect((await run('run', '--until-caught-up')).code).toBe(0);
  expect(await ask('select sum(total)::int from orders')).toEqual([[0]]);

  expect((await run('restore', '--from', 'saved.duckdb')).code).toBe(0);
  const replayed = await run('replay', '--since', since, '--until', good);
  expect(replayed, replayed.stderr).toMatchObject({ code: 0 });
  expect(await ask('select count(*)::int, sum(total)::int from orders')).toEqual([[301, 100 * 20 + 200 * 10 + 30]]);

  // What the source has lost is written to it again, from there; then the stream goes on, mistake and mending alike.
  const rows = (await ask('select id, total from orders')) as [number, number][];
  await database.query(
    `insert into orders select * from json_to_recordset($1) as r(id int, total int) on conflict (id) do update set total = excluded.total`,
    [JSON.stringify(rows.map(([id, total]) => ({ id, total })))],
  );
  expect((await run('run', '--until-caught-up')).code).toBe(0);
  expect(await equal()).toEqual([]);
  expect(await ask('select count(*)::int, sum(total)::int from orders')).toEqual([[301, 100 * 20 + 200 * 10 + 30]]);
}, 300_000);

test('a full resync makes whatever became of the file equal to the source, beside the stream', async () => {
  expect((await run('run', '--until-caught-up')).code).toBe(0);
  await damage(
    path(),
    'update orders set total = -1 where id < 50',
    'delete from items',
    'insert into orders values (9999, 9)',
  );
  expect(await equal()).not.toEqual([]);
  await stream();
  await database.query('insert into items values (1000)');
  const resync = await run('snapshot', 'start', '*.*', '--wait');
  expect(resync, resync.stderr).toMatchObject({ code: 0 });
  await stop();
  expect((await run('run', '--until-caught-up')).code).toBe(0);
  expect(await equal()).toEqual([]);
}, 240_000);
