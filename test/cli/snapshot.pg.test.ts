import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { cli, makeProject, type Outcome, type Running, start } from './support.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
let running: Running[] = [];

const waltide = (...argv: string[]): Promise<Outcome> => cli(project.dir, 'snapshot', ...argv);

function run(...argv: string[]): Running {
  const one = start(project.dir, ...argv);
  running.push(one);
  return one;
}

async function rows(sql: string): Promise<unknown> {
  const { stdout, stderr } = await cli(project.dir, 'query', '--json', sql);
  expect(stderr).toBe('');
  return (JSON.parse(stdout) as { rows: unknown }).rows;
}

beforeEach(async () => {
  database = await createDatabase();
  await database.query(
    `create table a (id int primary key, t text); insert into a select g, 'x' from generate_series(1, 8000) g;
     create table b (id int primary key); create table keyless (x int); alter table keyless replica identity full`,
  );
  project = await makeProject({
    source: { url: database.url, slot: database.name, tables: ['public.*'], heartbeatIntervalMs: 500 },
    snapshot: { chunkRows: 100, tablesIntervalMs: 300 },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
  });
});
afterEach(async () => {
  for (const one of running) one.child.kill('SIGKILL');
  await Promise.all(running.map((one) => one.end()));
  running = [];
  await database.drop();
  await project.remove();
});

test('refuses what cannot work, each with its reason, and asks for nothing', async () => {
  expect(await waltide('start', 'a')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('has not been made yet'),
  });
  expect((await run('setup').end()).code).toBe(0);
  const refused: [string[], RegExp][] = [
    [['start', 'nothing'], /table public\.nothing does not exist/],
    [['start', 'a', '--sink', 'other'], /no sink "other"/],
    [['start', 'a', '--where', 'no_such_column > 1'], /no_such_column/],
    [['start', 'a', '--where', 'id > 1; drop table b'], /is not one for table public\.a/],
    [['start', 'a', '--where', 'true) or (true'], /is not one for table public\.a/],
    [['start', 'a', '--where', 'true] or array[true'], /is not one for table public\.a/],
    [['start', 'a', '--where', 'id >'], /is not one for table public\.a: syntax error at end of input\n/],
    [['start', 'a', '--where', ' '], /is not one for table public\.a: it is empty\n/],
    [['start', 'a', '--where', 'id > 1 limit 5'], /: it is more than one expression\n/],
    [['start', 'a', '--where', 't'], /is not one for table public\.a/],
    [['start', 'keyless', '--where', 'x = 1'], /has no key/],
    [['start', 'keyless', '--rows-per-second-max', '10'], /has no key/],
    [['pause', 'a'], /no snapshot of a to pause/],
    [['resume', '*.*'], /no snapshot of/],
    [['cancel', 'public.a'], /no snapshot of/],
  ];
  for (const [argv, message] of refused) {
    const { code, stderr } = await waltide(...argv);
    expect(stderr, argv.join(' ')).toMatch(message);
    expect(stderr).toMatch(/what to do: /);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(code).not.toBe(0);
  }
  const role = `r_${database.name}`;
  await database.query(
    `create role ${role} login password 'x'; grant usage on schema waltide to ${role}; grant all on all tables in schema waltide to ${role}`,
  );
  const url = new URL(database.url);
  url.username = role;
  url.password = 'x';
  const other = await makeProject({
    source: { url: url.href, slot: database.name, tables: ['public.*'] },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
  });
  expect(await cli(other.dir, 'snapshot', 'start', 'a')).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/may not read public\.a[\s\S]*GRANT SELECT ON public\.a/),
  });
  await other.remove();
  await database.query('create table foreign_rows (id int primary key)');
  expect((await waltide('start', 'foreign_rows')).stderr).toMatch(/is not captured/);
  expect((await waltide('list')).stdout).toContain('no snapshots yet');
  await database.query(`drop owned by ${role}`);
  await database.query(`drop role ${role}`);
});

test('starts, waits, pauses, resumes, cancels and lists', async () => {
  expect((await run('setup').end()).code).toBe(0);
  const idle = await waltide('start', 'a', '--rows-per-second-max', '400');
  expect(idle).toMatchObject({ code: 0, stderr: expect.stringContaining('No process is capturing') });
  expect((await waltide('start', 'a')).stderr).toMatch(/is under way already/);
  const pipeline = run('run');
  await pipeline.until(/snapshot of a table/);
  const one = async (): Promise<Record<string, unknown>> =>
    (JSON.parse((await waltide('list', '--json')).stdout) as Record<string, unknown>[]).find(
      ({ table }) => table === 'a',
    )!;
  while (((await one()).rows as number) === 0) await new Promise((wake) => setTimeout(wake, 50));
  expect(await waltide('pause', 'a')).toMatchObject({ code: 0, stdout: expect.stringContaining('is paused') });
  expect((await waltide('pause', 'a')).stderr).toMatch(/is paused: it cannot pause/);
  await new Promise((wake) => setTimeout(wake, 1500));
  const paused = await one();
  expect(paused).toMatchObject({ state: 'paused', kind: 'incremental' });
  expect(paused.rows).toBeLessThan(8000);
  // Neither the stream nor another table waits for it.
  await database.query(
    "insert into b values (1); update a set t = 'y' where id = 1; insert into keyless values (1), (1)",
  );
  expect(await waltide('start', 'b', 'keyless', '--wait')).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(
      /public\.b: completed, 1 rows[\s\S]*public\.keyless: completed, 2 rows|public\.keyless: completed, 2 rows[\s\S]*public\.b: completed, 1 rows/,
    ),
  });
  expect(
    await rows('select (select count(*) from a), (select t from a where id = 1), (select count(*) from keyless)'),
  ).toEqual([['8000', 'y', '2']]);
  expect((await waltide('resume', 'a')).code).toBe(0);
  while ((await one()).state === 'pending') await new Promise((wake) => setTimeout(wake, 20));
  expect(await waltide('cancel', 'a')).toMatchObject({ code: 0, stdout: expect.stringContaining('is cancelled') });
  while ((await one()).state === 'cancelling') await new Promise((wake) => setTimeout(wake, 50));
  expect((await one()).state).toBe('cancelled');
  expect(await rows('select count(*) from a')).toEqual([['8000']]);
  // A part of the rows, in place.
  // What a condition does not do is said.
  expect((await waltide('start', 'a', '--where', 'id <= 10', '--wait')).stdout).toMatch(
    /^public\.a: completed, 10 rows of the source that match; rows that only the sink has stay \(.*\)\n$/,
  );
  const list = await waltide('list');
  expect(list.stdout).toMatch(/public\.a +completed +10 /);
  expect(list.stdout).toMatch(/id <= 10/);
  // A table that goes is nobody else's matter.
  await database.query('drop table b');
  await database.query("insert into a values (15000, 'on')");
  while (JSON.stringify(await rows('select count(*) from a')) !== '[["8001"]]')
    await new Promise((wake) => setTimeout(wake, 50));
}, 300_000);

test('takes source.tables from the edited configuration while it runs, and says what needs a restart', async () => {
  const file = join(project.dir, 'waltide.json');
  const before = JSON.parse(await readFile(file, 'utf8')) as { source: Record<string, unknown> };
  const edit = (source: Record<string, unknown>, rest: Record<string, unknown> = {}): Promise<void> =>
    writeFile(file, JSON.stringify({ ...before, ...rest, source: { ...before.source, ...source } }));
  await edit({ tables: ['public.a'] });
  const pipeline = run('run');
  await pipeline.until(/"streaming"/);
  await database.query('insert into b values (7)');
  await edit({ tables: ['public.a', 'public.b'] });
  await pipeline.until(/source\.tables was changed/);
  while ((await cli(project.dir, 'query', 'select id from b')).code !== 0)
    await new Promise((wake) => setTimeout(wake, 100));
  expect(await rows('select id from b')).toEqual([[7]]);
  await writeFile(file, '{');
  await pipeline.until(/cannot be used/);
  await edit({ tables: ['public.a'] }, { shutdownTimeoutMs: 5000 });
  pipeline.child.kill('SIGHUP');
  await pipeline.until(/take effect after a restart/);
  await pipeline.until(/table is not captured any more/);
  await database.query("insert into b values (8); insert into a values (19000, 'on')");
  while (JSON.stringify(await rows('select count(*) from a')) !== '[["8001"]]')
    await new Promise((wake) => setTimeout(wake, 50));
  expect(await rows('select id from b')).toEqual([[7]]);
  pipeline.child.kill('SIGTERM');
  expect((await pipeline.end()).code).toBe(0);
}, 300_000);

test('says that a sink cannot hold what was read: exit code 3', async () => {
  await database.query(
    'create table "Case" (id int primary key, "X" int, "x" int); insert into "Case" values (1, 2, 3)',
  );
  const pipeline = run('run');
  await pipeline.until(/"streaming"/);
  const { code, stderr } = await waltide('start', 'Case', '--wait');
  expect(stderr).toMatch(/stopped: public\.Case in sink analytics: /);
  expect(code).toBe(3);
});

test('one that waits for a transaction says so, and for which', async () => {
  const process = run('run');
  await process.until(/"streaming"/);
  const writer = new pg.Client({ connectionString: database.url });
  await writer.connect();
  try {
    const { pid } = (await writer.query('select pg_backend_pid() pid')).rows[0] as { pid: number };
    await writer.query("begin; update a set t = 'z' where id = 1");
    expect((await waltide('start', 'a')).code).toBe(0);
    const says = new RegExp(`public\\.a +waiting .*waits for transactions that have written .*: pid ${pid}`);
    await eventually('it says so', async () => says.test((await waltide('list')).stdout));
    await process.until(/waits for older transactions/);
    await writer.query('commit');
    await eventually('it goes on', async () => /public\.a +completed/.test((await waltide('list')).stdout));
    expect((await waltide('list')).stdout).not.toContain('waits for');
  } finally {
    await writer.end();
  }
});
