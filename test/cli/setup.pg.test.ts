import { existsSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { differences, withDuckdb } from '../support/compare.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { waltide } from '../support/waltide-process.ts';
import { cli, makeProject, type Outcome } from './support.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
const run = (...argv: string[]): Promise<Outcome> => cli(project.dir, 'setup', ...argv);
const file = (): string => join(project.dir, 'd.duckdb');
const built = (args: readonly string[], env: NodeJS.ProcessEnv = {}) =>
  waltide([...args, '--config', join(project.dir, 'waltide.json')], env);

function projectOf(url: string): ReturnType<typeof makeProject> {
  const { name } = database;
  return makeProject({
    source: { url, slot: name, publication: name, tables: ['public.*'] },
    sinks: [{ name: 'd', type: 'duckdb', path: 'd.duckdb' }],
    schedules: [{ name: 'sweep', type: 'cleanup', cron: '0 4 * * 0' }],
  });
}

beforeEach(async () => {
  database = await createDatabase();
  await database.query(
    'create table t (id int primary key, a text); insert into t select i, i from generate_series(1, 500) i',
  );
  project = await projectOf(database.url);
});
afterEach(async () => {
  await database.drop();
  await project.remove();
});

const slots = (): Promise<unknown[]> =>
  database.query(`select plugin from pg_replication_slots where slot_name = '${database.name}'`);

describe('setup, in parts', { timeout: 300_000 }, () => {
  it('says which flags do not go together', async () => {
    for (const [argv, words] of [
      [['--grants', '--all'], '--grants only prints'],
      [['--platform', 'rds'], '--platform needs --grants'],
      [['--role', 'x'], '--role needs --grants'],
      [['--recopy', '--setup-cdc'], '--recopy copies rows, and --setup-cdc copies none'],
      [['--no-ddl', '--all'], '--no-ddl takes the capture trigger away'],
      [['--ddl', '--create-duckdb'], '--ddl belongs to --setup-cdc or --all'],
      [['--all', '--verify-setup'], '--all includes --verify-setup'],
    ] as const)
      expect(await run(...argv), words).toMatchObject({ code: 2, stderr: expect.stringContaining(words) });
    expect(await slots()).toEqual([]);
  });

  it('does each part alone, and again; --verify-setup says what is missing', async () => {
    const failing = async (): Promise<string[]> => {
      const { stdout } = await run('--verify-setup', '--json');
      const { checks } = JSON.parse(stdout) as { checks: { name: string; status: string; remedy: string | null }[] };
      const failed = checks.filter(({ status }) => status === 'fail');
      expect(failed.filter(({ remedy }) => remedy === null)).toEqual([]);
      return failed.map(({ name }) => name.replace('setup: ', ''));
    };
    expect(await failing()).toEqual(['control schema', 'publication', 'slot', 'sink d', 'schedules']);
    for (let time = 1; time <= 2; time++) {
      expect(await run('--setup-cdc')).toMatchObject({ code: 0, stderr: expect.stringContaining('slot: ') });
      expect(await slots()).toEqual([{ plugin: 'pgoutput' }]);
    }
    expect(existsSync(file())).toBe(false);
    expect(await failing()).toEqual(['sink d', 'schedules']);
    for (let time = 1; time <= 2; time++) expect((await run('--create-duckdb')).code).toBe(0);
    expect(await failing()).toEqual(['schedules']);
    for (let time = 1; time <= 2; time++) expect((await run('--initialize-services')).code).toBe(0);
    expect(await failing()).toEqual([]);
    expect(await run('--all')).toMatchObject({ code: 0, stdout: expect.stringContaining('none fails') });

    // Nothing is copied yet, and nothing is lost.
    await database.query(`insert into t values (1000, 'since'); delete from t where id = 1`);
    expect(await run()).toMatchObject({ code: 0, stdout: expect.stringContaining('500 rows of 1 table are copied') });
    expect(await withDuckdb(file(), (query) => differences(database.url, query, ['public.t']))).toEqual([]);
    expect(await run('--all')).toMatchObject({ code: 0, stderr: expect.stringContaining('is there and in use') });
    await database.query(`select pg_drop_replication_slot('${database.name}')`);
    const gone = await run('--setup-cdc');
    expect([gone.code, gone.stderr]).toEqual([
      1,
      expect.stringContaining('is gone, though its first copy was finished'),
    ]);
  });

  it('refuses a slot and a file that are of another', async () => {
    await database.query(`select pg_create_logical_replication_slot('${database.name}', 'pgoutput')`);
    expect(await run('--setup-cdc')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('Waltide has not made it'),
    });
    await database.query(`select pg_drop_replication_slot('${database.name}')`);
    await run('--all');
    const other = await createDatabase();
    await other.query('create table t (id int primary key)');
    const second = await makeProject({
      source: { url: other.url, slot: other.name, publication: other.name, tables: ['public.*'] },
      sinks: [{ name: 'd', type: 'duckdb', path: file() }],
    });
    expect((await cli(second.dir, 'setup', '--create-duckdb')).code).toBe(1);
    await second.remove();
    await other.drop();
  });

  it.each(['before-slot', 'after-slot'])('leaves nothing half-done when it is killed at %s', async (point) => {
    const killed = await built(['setup', '--all'], { WALTIDE_FAILPOINT: point });
    expect(killed.signal ?? killed.code).not.toBe(0);
    const again = await built(['setup', '--all']);
    expect(again.code, again.stdout + again.stderr).toBe(0);
    expect((await built(['run', '--until-caught-up'])).code).toBe(0);
    expect(await withDuckdb(file(), (query) => differences(database.url, query, ['public.t']))).toEqual([]);
  });

  it('copies once, however many set up at once', async () => {
    // The slot waits for it: meanwhile the others find a slot that is about to be made.
    const older = new pg.Client(database.url);
    await older.connect();
    await older.query('begin; create table other (id int primary key)');
    const starting = [built(['setup', '--ddl']), built(['setup', '--ddl']), built(['setup'])];
    await eventually('one makes the slot', async () => (await slots()).length > 0);
    await new Promise((resolve) => setTimeout(resolve, 3000));
    await older.query('rollback');
    const ends = await Promise.all(starting);
    await older.end();
    const copied = ends.filter(({ stdout }) => /500 rows of 1 table are copied/.test(stdout));
    expect(copied, ends.map(({ stdout, stderr }) => stdout + stderr).join('\n---\n')).toHaveLength(1);
    for (const { code, stderr } of ends) if (code !== 0) expect(stderr).toMatch(/SLOT_IN_USE|slot "|locked|trigger/);
  });

  it('goes without the capture trigger where the role may not, unless it is asked for', async () => {
    const role = `setup_${process.pid}_${Date.now().toString(36)}`;
    await database.query(`create role ${role} login replication password 'secret'; alter table t owner to ${role};
      grant create on database ${database.name} to ${role}; grant usage on schema public to ${role}`);
    const small = await projectOf(database.url.replace(/\/\/.*@/, `//${role}:secret@`));
    try {
      const asked = await cli(small.dir, 'setup', '--setup-cdc', '--ddl');
      expect([asked.code, asked.stderr]).toEqual([1, expect.stringContaining('the capture trigger needs rights')]);
      const { code, stderr } = await cli(small.dir, 'setup', '--all');
      expect([code, stderr]).toEqual([0, expect.stringContaining('capture trigger: needs a superuser')]);
    } finally {
      await small.remove();
      await database.query(`select pg_drop_replication_slot('${database.name}')`);
      await database.query(`drop owned by ${role} cascade; drop role ${role}`);
    }
  });

  it('installs the capture trigger after --all, and copies nothing for it', async () => {
    expect((await run('--all')).code).toBe(0);
    const where = `select restart_lsn::text from pg_replication_slots where slot_name = '${database.name}'`;
    const before = await database.query(where);
    await run('--no-ddl');
    expect((await run('--verify-setup')).stdout).toContain('Run `waltide setup --ddl` as a superuser.');
    expect(await run('--ddl')).toMatchObject({ code: 0, stdout: 'the capture trigger is installed\n' });
    expect(await database.query(where)).toEqual(before);
    expect(await withDuckdb(file(), (query) => query("from duckdb_tables() where table_name = 't'"))).toEqual([]);
    expect((await run('--verify-setup')).stdout).not.toContain('--ddl');
    expect(await run()).toMatchObject({ code: 0, stdout: expect.stringContaining('500 rows of 1 table are copied') });
  });

  it('lets the schema history begin with what each table was, also where the trigger was there before', async () => {
    expect((await run('--setup-cdc', '--ddl')).code).toBe(0);
    expect((await built(['run', '--until-caught-up'])).code).toBe(0);
    await database.query('alter table t add b int; insert into t values (2000)');
    expect((await built(['run', '--until-caught-up'])).code).toBe(0);
    const { stdout } = await cli(project.dir, 'schema', 'history', 't', '--json');
    const changes = JSON.parse(stdout) as { command: string; words: string[] }[];
    expect(changes.map(({ command }) => command)).toEqual(['SETUP', 'ALTER TABLE']);
    expect(changes[1]?.words.join()).toContain('b');
  });

  it('prints grants for a role of its own where an administrator asks', async () => {
    const { stdout, stderr } = await run('--grants');
    expect(stdout).toContain('GRANT SELECT ON "public"."t" TO "waltide"');
    expect(stdout).not.toContain('ROLE "postgres"');
    expect(stderr).toContain('--role names another');
    expect((await run('--grants', '--role', 'archive')).stdout).toContain('TO "archive"');
  });
});
