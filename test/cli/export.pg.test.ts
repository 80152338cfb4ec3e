import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { ExportManifest } from '../../src/sink/upkeep.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { cli, makeProject, type Running, start } from './support.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
let running: Running | null;

beforeEach(async () => {
  running = null;
  database = await createDatabase();
  await database.query(`create table orders (id int primary key, region text);
    insert into orders select i, 'r' || i % 3 from generate_series(1, 300) i`);
  project = await makeProject({
    source: {
      url: database.url,
      slot: database.name,
      publication: database.name,
      tables: ['public.*'],
      heartbeatIntervalMs: 500,
    },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
    schedules: [
      { name: 'nightly', type: 'export', sink: 'analytics', to: 'nightly', partitionBy: ['region'], cron: '0 0 1 1 *' },
      { name: 'tidy', type: 'optimize', sink: 'analytics', cron: '0 0 1 1 *' },
    ],
  });
});
afterEach(async () => {
  running?.child.kill('SIGKILL');
  await running?.end();
  await database.drop();
  await project.remove();
});

const manifestOf = (...path: string[]): ExportManifest =>
  JSON.parse(readFileSync(join(project.dir, ...path, 'latest', 'manifest.json'), 'utf8')) as ExportManifest;

test('waltide export, through the process, from the file, and by schedule', async () => {
  expect(await cli(project.dir, 'export', '--to', 'x')).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/there is no file/),
  });
  expect((await cli(project.dir, 'run', '--until-caught-up')).code).toBe(0);
  const atRest = await cli(project.dir, 'export', 'orders', '--to', 'x', '--where', 'id <= 10');
  expect(atRest).toMatchObject({ code: 0, stderr: expect.stringMatching(/^1 tables, 10 rows, .*, as of [0-9A-F]+\//) });
  expect(existsSync(atRest.stdout.trim())).toBe(true);
  running = start(project.dir, 'run');
  await eventually('it streams', async () => (await cli(project.dir, 'status')).stdout.includes('streaming'));
  const live = await cli(project.dir, 'export', '--to', 'x', '--compression', 'snappy', '--json');
  expect(JSON.parse(live.stdout)).toMatchObject({ ok: true, rows: 300, tables: 1 });
  expect(manifestOf('x')).toMatchObject({ compression: 'snappy', rows: 300 });
  const wrong = await cli(project.dir, 'export', '--to', 'x', '--where', 'nothing = 1');
  expect(wrong).toMatchObject({ code: 1, stderr: expect.stringMatching(/--where, on public.orders/) });
  const runs = await database.query(
    `select status from waltide.sync_history where sync_type = 'export:analytics' order by id`,
  );
  expect(runs).toEqual([{ status: 'success' }, { status: 'error' }]);
  const nightly = await cli(project.dir, 'schedule', 'run', 'nightly');
  expect(nightly).toMatchObject({ code: 0, stdout: expect.stringMatching(/^nightly is done: run \d+, 300 records/) });
  expect(readdirSync(join(project.dir, 'nightly', 'latest', 'public', 'orders')).sort()).toEqual([
    'region=r0',
    'region=r1',
    'region=r2',
  ]);
  expect((await cli(project.dir, 'schedule', 'run', 'tidy')).stdout).toMatch(/^tidy is done/);
}, 240_000);

test.each(['SIGKILL alone', 'SIGKILL, then SIGTERM to the command'])(
  'ends with the process that does it: %s',
  async (how) => {
    running = start(project.dir, 'run');
    await eventually('it streams', async () => (await cli(project.dir, 'status')).stdout.includes('streaming'));
    const slow = 'id + (select sum(sin(a.range + b.range)) from range(2000000) a, range(2000000) b) is not null';
    const asked = start(project.dir, 'export', '--to', 'x', '--where', slow);
    await eventually(
      'it is at work',
      async () =>
        (await database.query(`select 1 from waltide.active_runs where sync_type = 'export:analytics'`)).length > 0,
    );
    // The run is there before the answer with its number.
    await eventually('the command knows the run', async () => {
      const found = await database.query(
        `select 1 from pg_stat_activity where datname = current_database() and application_name like '%follow run%'`,
      );
      return found.length > 0;
    });
    running.child.kill('SIGKILL');
    if (how !== 'SIGKILL alone') asked.child.kill('SIGTERM');
    const { code, stderr } = await asked.end();
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/pid \d+ is gone, and with it run \d+ of export:analytics/),
    ]);
    expect(stderr).toContain('waltide run');
    expect(existsSync(join(project.dir, 'x', 'latest'))).toBe(false);
  },
  240_000,
);
