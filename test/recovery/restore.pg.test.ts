import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { ConfigInput } from '../../src/config/schema.ts';
import { cli, makeProject, type Outcome, type Running, start } from '../cli/support.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
let running: Running | null;

beforeEach(async () => {
  running = null;
  database = await createDatabase();
  await database.query(`create table orders (id int primary key, note text); create table events (at timestamptz, what text);
    insert into orders select i, 'note ' || i from generate_series(1, 1000) i; insert into events select now(), i::text from generate_series(1, 50) i`);
});
afterEach(async () => {
  running?.child.kill('SIGKILL');
  await running?.end();
  await database.drop();
  await project.remove();
});

async function open(source: Partial<ConfigInput['source']> = {}): Promise<void> {
  project = await makeProject({
    source: {
      url: database.url,
      slot: database.name,
      publication: database.name,
      tables: ['public.*'],
      keylessTables: 'insert-only',
      heartbeatIntervalMs: 500,
      ...source,
    },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
  });
}

const run = (...argv: string[]): Promise<Outcome> => cli(project.dir, ...argv);
const path = (): string => join(project.dir, 'a.duckdb');
const equal = (): Promise<string[]> =>
  withDuckdb(path(), (query) => differences(database.url, query, ['public.orders', 'public.events']));
const catchUp = async (): Promise<void> => expect(await run('run', '--until-caught-up')).toMatchObject({ code: 0 });

async function write(): Promise<void> {
  await database.query(`update orders set note = note || '!' where id % 3 = 0; delete from orders where id % 7 = 0 or id >= 2000;
    insert into orders select i, 'new' from generate_series(2000, 2100) i; insert into events select now(), 'later' from generate_series(1, 20)`);
}

test('what came after a backup comes again from the WAL that the slot retains', async () => {
  await open({ retain: { bytes: 500_000_000 } });
  running = start(project.dir, 'run');
  await eventually('it streams', async () => (await run('status')).stdout.includes('streaming'));
  const backup = await run('backup', '--to', 'saved.duckdb');
  expect(backup).toMatchObject({
    code: 0,
    stderr: expect.stringMatching(/^2 tables, 1,?050 rows, .* as of [0-9A-F]+\//),
  });
  await write();
  expect(await run('restore', '--from', 'saved.duckdb')).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/running process holds/),
  });
  running.child.kill('SIGTERM');
  await running.end();
  running = null;
  await catchUp();
  expect(await equal()).toEqual([]);
  await write();
  const restored = await run('restore', '--from', 'saved.duckdb');
  expect(restored).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/a\.duckdb: 2 tables, 1,?050 rows, as of/),
    stderr: expect.stringMatching(
      /what was there is .*before-restore-.*\n.*goes on from [0-9A-F]+\/[0-9A-F]+, from the slot/,
    ),
  });
  expect(await withDuckdb(path(), (query) => query('select count(*)::int from orders'))).toEqual([[1000]]);
  await catchUp();
  expect(await equal()).toEqual([]);
  expect(readdirSync(project.dir).filter((name) => /\.restore-|part/.test(name))).toEqual([]);
}, 240_000);

test('where the WAL is gone it is refused with the remedy, and --refill fills every table anew', async () => {
  await open();
  await catchUp();
  expect((await run('backup', '--to', 'saved.duckdb')).code).toBe(0);
  await write();
  await catchUp();
  const before = readFileSync(path());
  const refused = await run('restore', '--from', 'saved.duckdb');
  expect(refused).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/what lies between is gone from the slot[\s\S]*--refill/),
  });
  expect(readFileSync(path()).equals(before)).toBe(true);
  const restored = await run('restore', '--from', 'saved.duckdb', '--refill', '--json');
  expect(JSON.parse(restored.stdout)).toMatchObject({ ok: true, refill: true });
  const rows = await run('query', 'select count(*) as n from orders', '--json');
  expect(JSON.parse(rows.stdout)).toMatchObject({ rows: [['1000']] });
  await write();
  await database.query(`insert into events values (now(), 'while nothing ran')`);
  await catchUp();
  expect(await equal()).toEqual([]);
}, 240_000);

test('a file put there by hand is refused at the start with the same remedy', async () => {
  await open();
  await catchUp();
  copyFileSync(path(), join(project.dir, 'saved.duckdb'));
  await write();
  await catchUp();
  copyFileSync(join(project.dir, 'saved.duckdb'), path());
  const refused = await run('run', '--until-caught-up');
  expect(refused).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/restored from an older backup[\s\S]*restore --refill/),
  });
  expect((await run('restore', '--from', 'saved.duckdb', '--refill')).code).toBe(0);
  await catchUp();
  expect(await equal()).toEqual([]);
}, 240_000);

test('what is no backup of this sink changes nothing', async () => {
  await open();
  await catchUp();
  const before = readFileSync(path());
  writeFileSync(join(project.dir, 'text.duckdb'), 'no database');
  const stray = await createDatabase();
  const other = await makeProject({
    source: { url: stray.url, slot: stray.name, publication: stray.name, tables: ['*.*'] },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
  });
  await stray.query('create table t (id int primary key)');
  await cli(other.dir, 'run', '--until-caught-up');
  for (const [from, why] of [
    ['absent.duckdb', /there is no file/],
    ['text.duckdb', /cannot be opened as a DuckDB file/],
    [join(other.dir, 'a.duckdb'), /is of database ".*", not "/],
  ] as const)
    expect(await run('restore', '--from', from)).toMatchObject({
      code: expect.any(Number),
      stderr: expect.stringMatching(why),
    });
  expect(readFileSync(path()).equals(before)).toBe(true);
  expect(readdirSync(project.dir).filter((name) => name.includes('restore'))).toEqual([]);
  await stray.drop();
  await other.remove();
}, 240_000);
