import { afterEach, beforeEach, expect, test } from 'vitest';
import { resolveConfig } from '../../src/config/load.ts';
import { cleanUp } from '../../src/postgres/run-cleanup.ts';
import { withSession } from '../../src/postgres/session.ts';
import { Tracker } from '../../src/postgres/tracked.ts';
import { eventually, log } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { cli, makeProject } from './support.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
let tracker: Tracker;
const json = async (...argv: string[]) => JSON.parse((await cli(project.dir, ...argv, '--json')).stdout);

beforeEach(async () => {
  database = await createDatabase();
  const config = {
    source: { url: database.url, slot: database.name, publication: database.name, tables: ['public.*'] },
    tracking: { instance: 'worker-1', heartbeatIntervalMs: 200, cleanupIntervalMs: 200 },
  };
  project = await makeProject(config);
  const { source, tracking } = resolveConfig(config);
  tracker = new Tracker({ source, tracking, log, version: '1.2.3', role: 'all' });
});
afterEach(async () => {
  await tracker.close();
  await database.drop();
  await project.remove();
});

test('nothing is there before anything was set up', async () => {
  for (const command of ['history', 'stats', 'instances'])
    expect(await cli(project.dir, command), command).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/no tables for runs yet[\s\S]*waltide setup/),
    });
});

test('history, stats and instances show what ran, who did it and how well', async () => {
  await tracker.open();
  for (const records of [10, 20, 30]) await tracker.tracked('main', async (run) => run.progress({ records }));
  const broken = Object.assign(new Error('the disk\u001b[31m is full'), { code: 'EROFS' });
  await expect(tracker.tracked('main', () => Promise.reject(broken))).rejects.toBe(broken);
  const held = await tracker.start(
    'snapshot:public.orders',
    (run) => new Promise((_, reject) => run.signal.addEventListener('abort', () => reject(run.signal.reason))),
  );
  const history = await cli(project.dir, 'history');
  expect(history.stdout).toMatch(/snapshot:public.orders +in_progress/);
  expect(history.stdout).toMatch(/main +error +0 .* worker-1:\d+:\w+ +storage: the disk\\x1b\[31m is full/);
  expect(history.stdout).toMatch(/main +success +30 /);
  const errors = await json('history', '--status', 'error', '--type', 'ma*', '--since', '1h');
  expect(errors).toMatchObject([{ syncType: 'main', status: 'error', errorClass: 'storage' }]);
  expect(await json('history', '--before', errors[0].id, '--limit', '2')).toMatchObject([
    { records: 30 },
    { records: 20 },
  ]);
  expect((await cli(project.dir, 'history', '--type', 'x_y')).stdout).toBe('no runs\n');
  expect((await cli(project.dir, 'history', '--before', 'x')).code).toBe(2);
  const { statistics, status } = await json('stats');
  expect(statistics[0]).toMatchObject({
    syncType: 'main',
    runs: 4,
    successes: 3,
    errors: 1,
    cancelled: 0,
    successRate: 75,
    records: 60,
    errorClasses: { storage: 1 },
    lastStatus: 'error',
  });
  expect(status[0]).toMatchObject({ syncType: 'main', successes: 3, failures: 1, error: expect.any(String) });
  expect((await cli(project.dir, 'stats')).stdout).toMatch(/main +4 +75.0 % +storage 1 /);
  expect(await json('instances')).toMatchObject([
    { id: tracker.instance, state: 'alive', role: 'all', version: '1.2.3', running: ['snapshot:public.orders'] },
  ]);
  await tracker.cancel(held);
  await eventually('it is cancelled', async () => (await tracker.get(held))!.status === 'error');
  expect((await json('stats')).statistics[1]).toMatchObject({ cancelled: 1, errors: 0, successRate: null });
  await tracker.close();
  expect((await cli(project.dir, 'instances')).stdout).toBe('no instances\n');
  expect((await cli(project.dir, 'instances', '--all')).stdout).toMatch(/worker-1:\d+:\w+ +stopped +all /);
});

test('the history is kept for so long, but the last run and the last success of each type stay', async () => {
  await tracker.open();
  for (let i = 0; i < 3; i++)
    await tracker.tracked('main', async (run) => run.progress({ records: i, latest: `id-${i}` }));
  await expect(tracker.tracked('main', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  await tracker.tracked('fresh', async () => {});
  await database.query(
    `update waltide.sync_history set sync_timestamp = sync_timestamp - interval '91 days' where sync_type = 'main';
     insert into waltide.instances (id, slot_name, role, host, pid, version, expires_at, stopped_at)
     select i::text, '', '', '', 1, '', now(), now() - i * interval '1 day' from generate_series(1, 10) i`,
  );
  // By itself: with the default of 90 days, and one table after another.
  await eventually('the old runs are gone', async () => (await tracker.list()).length === 3);
  await eventually('the old instances are gone', async () => (await json('instances', '--all')).length === 1 + 6);
  expect((await tracker.list()).map(({ syncType, status }) => [syncType, status])).toEqual([
    ['fresh', 'success'],
    ['main', 'error'],
    ['main', 'success'],
  ]);
  await tracker.tracked('main', async (run) => expect(run.last.latest).toBe('id-2'));
  const { source } = resolveConfig({ source: { url: database.url, tables: ['*.*'] } });
  await database.query(`update waltide.sync_history set sync_timestamp = sync_timestamp - interval '2 hours'`);
  await tracker.tracked('fresh', async () => {});
  const removed = await withSession(source, 'test', (client) => cleanUp(client, 1 / 24));
  expect(removed).toMatchObject({ sync_history: expect.any(Number), instances: 6, snapshots: 0 });
  expect((await tracker.list()).map(({ syncType }) => syncType)).toEqual(['fresh', 'main']);
  expect(await tracker.status()).toHaveLength(2);
});

test('validations go with time, but for what was found last of each table', async () => {
  await tracker.open();
  const validate = (id: string, daysAgo: number, tables: string[], request = '{}') =>
    database.query(
      `with v as (insert into waltide.validations (id, slot_name, request, state, finished_at)
         values ($1, 's', $4, 'completed', now() - $2::int * interval '1 day') returning id)
       insert into waltide.validation_results (validation_id, sink, table_name, finished, source_rows, sink_rows, missing, extra,
         different, unsettled, repaired, score, result, updated_at)
       select id, 'a', t, true, 1, 1, 0, 0, 0, 0, 0, 100, '{}', now() - $2::int * interval '1 day' from v, unnest($3::text[]) t`,
      [id, daysAgo, tables, request],
    );
  await validate('first', 9, ['public.a', 'public.b']);
  await validate('again', 8, ['public.a']);
  await validate('b again', 7, ['public.b', 'public.c']);
  // Of one row alone: it says nothing of the table.
  await validate('one row', 6, ['public.a'], '{"key": "1"}');
  await validate('counts', 5, ['public.a'], '{"checks": ["row_count"]}');
  await validate('sample', 4, ['public.a'], '{"sample": 9}');
  await validate('recent', 1, ['public.c']);
  const { source } = resolveConfig({ source: { url: database.url, tables: ['*.*'] } });
  await withSession(source, 'test', (client) => cleanUp(client, 3));
  const left = await database.query('select id from waltide.validations order by finished_at');
  expect(left.map(({ id }) => id)).toEqual(['again', 'b again', 'recent']);
});
