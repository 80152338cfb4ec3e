import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Failpoint } from '../../src/failpoint.ts';
import type { ExportManifest } from '../../src/sink/upkeep.ts';
import { cli, makeProject, type Running, startWith } from '../cli/support.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
let running: Running | null;

beforeEach(async () => {
  running = null;
  database = await createDatabase();
  await database.query(`create table a (id int primary key, note text); create table b (id int primary key, note text);
    insert into a select i, 'a' from generate_series(1, 200) i; insert into b select i, 'b' from generate_series(1, 100) i`);
  project = await makeProject({
    source: {
      url: database.url,
      slot: database.name,
      publication: database.name,
      tables: ['public.*'],
      retain: { bytes: 500_000_000 },
    },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
    // One that is slow is not dead, and does not lose what it does.
    tracking: { heartbeatIntervalMs: 200, heartbeatTimeoutMs: 60_000 },
  });
  expect((await run('run', '--until-caught-up')).code).toBe(0);
});
afterEach(async () => {
  running?.child.kill('SIGKILL');
  await running?.end();
  await database.drop();
  await project.remove();
});

const run = (...argv: string[]) => cli(project.dir, ...argv);
const path = (): string => join(project.dir, 'a.duckdb');
const equal = (): Promise<string[]> =>
  withDuckdb(path(), (query) => differences(database.url, query, ['public.a', 'public.b']));

/** A command line that dies at a point. */
async function dies(point: Failpoint, ...argv: string[]): Promise<void> {
  const child = startWith({ WALTIDE_FAILPOINT: point }, project.dir, ...argv);
  expect(await child.end(), `${point}: ${child.output.stderr}`).toMatchObject({ signal: 'SIGKILL' });
}

/** A streaming process that dies where a command lets it do what it was asked for. */
async function diesStreaming(point: Failpoint, ...argv: string[]): Promise<void> {
  running = startWith({ WALTIDE_FAILPOINT: point }, project.dir, 'run');
  await eventually('it streams', async () => (await run('status')).stdout.includes('streaming'));
  const asked = run(...argv);
  expect(await running.end(), point).toMatchObject({ signal: 'SIGKILL' });
  running = null;
  // Its run is closed by the next process, as if the time were up after which the silent count as dead.
  await database.query(`update waltide.instances set expires_at = now() - interval '1 second'`);
  expect((await run('run', '--until-caught-up')).code).toBe(0);
  expect((await asked).code).toBe(1);
}

/** What a reader finds is whole, whichever export it is. */
function whole(): ExportManifest {
  const latest = realpathSync(join(project.dir, 'x', 'latest'));
  const manifest = JSON.parse(readFileSync(join(latest, 'manifest.json'), 'utf8')) as ExportManifest;
  for (const { files } of manifest.tables) for (const file of files) expect(existsSync(join(latest, file))).toBe(true);
  expect(manifest.tables.map(({ table }) => table)).toEqual(['a', 'b']);
  return manifest;
}

const leftOvers = (directory: string): string[] =>
  readdirSync(join(project.dir, directory)).filter((name) => /^\.waltide-|\.copy-|\.restore-|waltide-part/.test(name));

test('an export that is killed leaves the last one, and nothing in the way', async () => {
  expect((await run('export', '--to', 'x')).code).toBe(0);
  const first = whole();
  for (const point of ['after-export-rename', 'during-export', 'before-export-rename'] as const) {
    await dies(point, 'export', '--to', 'x', '--keep', '10');
    expect(whole()).toEqual(first);
    // One that was renamed is whole as well.
    for (const name of readdirSync(join(project.dir, 'x')).filter((one) => /^\d/.test(one)))
      expect(existsSync(join(project.dir, 'x', name, 'manifest.json'))).toBe(true);
  }
  expect(leftOvers('x').length).toBeGreaterThan(0);
  await diesStreaming('during-export', 'export', '--to', 'x');
  expect(leftOvers('.').length).toBeGreaterThan(0);
  expect(whole()).toEqual(first);
  expect(await equal()).toEqual([]);
  running = startWith({}, project.dir, 'run');
  await eventually('it streams', async () => (await run('status')).stdout.includes('streaming'));
  await eventually('it exports', async () => (await run('export', '--to', 'x')).code === 0);
  expect(whole().exportedAt).not.toBe(first.exportedAt);
  expect([...leftOvers('x'), ...leftOvers('.')]).toEqual([]);
}, 300_000);

test('a backup that is killed leaves the last one, and nothing in the way', async () => {
  expect((await run('backup', '--to', 'saved.duckdb')).code).toBe(0);
  const first = readFileSync(join(project.dir, 'saved.duckdb'));
  await database.query('insert into a values (1000)');
  for (const point of ['during-backup', 'before-backup-rename'] as const)
    await dies(point, 'backup', '--to', 'saved.duckdb');
  await diesStreaming('during-backup', 'backup', '--to', 'saved.duckdb');
  expect(readFileSync(join(project.dir, 'saved.duckdb')).equals(first)).toBe(true);
  expect(leftOvers('.').length).toBeGreaterThan(0);
  expect(await equal()).toEqual([]);
  expect((await run('backup', '--to', 'saved.duckdb')).code).toBe(0);
  expect(leftOvers('.')).toEqual([]);
  expect(await withDuckdb(join(project.dir, 'saved.duckdb'), (query) => query('select count(*)::int from a'))).toEqual([
    [201],
  ]);
}, 300_000);

test('a restore that is killed leaves a file that the stream goes on from', async () => {
  expect((await run('backup', '--to', 'saved.duckdb')).code).toBe(0);
  for (const point of ['during-restore', 'before-restore-rename'] as const) {
    await database.query(
      `insert into a select max(id) + 1, '${point}' from a; delete from b where id = (select max(id) from b)`,
    );
    await dies(point, 'restore', '--from', 'saved.duckdb');
    expect((await run('run', '--until-caught-up')).code).toBe(0);
    expect(await equal()).toEqual([]);
  }
  expect((await run('restore', '--from', 'saved.duckdb')).code).toBe(0);
  expect(await withDuckdb(path(), (query) => query('select count(*)::int from a'))).toEqual([[200]]);
  expect((await run('run', '--until-caught-up')).code).toBe(0);
  expect(await equal()).toEqual([]);
  expect(leftOvers('.')).toEqual([]);
}, 300_000);
