import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createKeys } from '../api/support.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { cli, makeProject, type Running, start } from './support.ts';

/* The dashboard beside a real `waltide run`: what it shows is what is so. */

const HOSTILE = 'evil \u001b[31m\u001b[2J\nname';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
let running: Running | undefined;

beforeAll(async () => {
  database = await createDatabase();
  await database.query(`create table public.orders (id int primary key, t text);
    create table public."夜のテーブル" (id int primary key); create table public."${HOSTILE}" (id int primary key);
    insert into public.orders select g, 'x' from generate_series(1, 1000) g`);
  project = await makeProject({
    source: { url: database.url, slot: database.name, tables: ['public.*'], heartbeatIntervalMs: 500 },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
    schedules: [{ name: 'tidy', type: 'cleanup', cron: '0 4 1 1 *' }],
    api: { enabled: true, port: 0 },
  });
});
afterAll(async () => {
  running?.child.kill('SIGKILL');
  await running?.end();
  await database?.drop();
  await project?.remove();
});

const once = (...argv: string[]) => cli(project.dir, 'dashboard', '--once', ...argv);

test('down, running with the true numbers, also by URL and key, and down again', async () => {
  const before = await once();
  expect(before).toMatchObject({ code: 1, stderr: '' });
  expect(before.stdout).toContain(`● down  no process of slot "${database.name}" is running`);

  running = start(project.dir, 'run');
  await running.until(/"streaming"/);
  await database.query(`insert into public.orders select g, 'y' from generate_series(2001, 2777) g;
    insert into public."夜のテーブル" select g from generate_series(1, 55) g; insert into public."${HOSTILE}" values (1)`);
  expect(await cli(project.dir, 'wait')).toMatchObject({ code: 0 });
  expect(await cli(project.dir, 'schedule', 'run', 'tidy')).toMatchObject({ code: 0 });

  let text = '';
  await eventually('everything is counted', async () => {
    const now = await once();
    expect(now).toMatchObject({ code: 0, stderr: '' });
    text = now.stdout;
    return /public\.orders .* 1,779 /.test(text) && /tidy .* success/.test(text);
  });
  // A copy is a beginning, its rows, and an end.
  expect(text).toMatch(/\nanalytics +good +\d/);
  expect(text).toMatch(/\ntidy +1 +0 +100\.0 %/);
  expect(text).toMatch(/● streaming {2}pid \d+ {2}role all/);
  expect(text).toMatch(/TABLES {2}3\n/);
  expect(text).toMatch(/public\.夜のテーブル +analytics +streaming +\d+.* +– +57 +0/);
  expect(text).toMatch(/public\.evil \\x1b\[31m\\x1b\[2J\\nname +analytics +streaming +\d+.* +– +3 +0/);
  expect(text).toMatch(/LAST RUNS\n.*\n *\d+ +tidy +success/);
  expect(text).not.toContain('\u001b');

  const json = JSON.parse((await cli(project.dir, 'dashboard', '--json')).stdout);
  expect(json).toMatchObject({ running: true, processes: [{ status: { sinks: [{ name: 'analytics' }] } }] });

  const url = /"apiAddress":"([^"]+)"/.exec(running.output.stderr)![1]!;
  const { viewer } = await createKeys(database);
  const refused = await once('--url', url);
  expect(refused.code).toBe(1);
  expect(refused.stdout).toContain('WALTIDE_API_KEY');
  const file = join(project.dir, 'key');
  await writeFile(file, `${viewer}\n`);
  const remote = await once('--url', `${url}/`, '--api-key-file', file);
  expect(remote).toMatchObject({ code: 0, stderr: '' });
  expect(remote.stdout).toMatch(/public\.orders .* 1,779 /);

  running.child.kill('SIGTERM');
  await running.end();
  expect((await once()).stdout).toContain('● down');
});
