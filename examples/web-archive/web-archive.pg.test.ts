import { readdir, readFile, realpath, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { DuckDBInstance } from '@duckdb/node-api';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { damage, withDuckdb } from '../../test/support/compare.ts';
import { eventually } from '../../test/support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../../test/support/postgres.ts';
import type { WaltideProcess } from '../../test/support/waltide-process.ts';
import { fillArchive, type Sizes, scrape } from './data.ts';
import { Deployment, PROVEN } from './setting.ts';

const SIZES: Sizes = { users: 60, projects: 80, domains: 200, pages: 3000 };

// biome-ignore lint/suspicious/noExplicitAny: whatever the API says; the test looks into it.
type Json = any;

/** One story, in order: each part goes on where the last one ended. */
describe('the web archive, from set-up to proof', { timeout: 600_000 }, () => {
  let database: TestDatabase;
  let archive: Deployment;
  let running: WaltideProcess | null = null;
  let api = '';
  /** A time from which on everything was followed. */
  let followed = '';
  const keys: Record<string, string> = {};

  beforeAll(async () => {
    database = await createDatabase();
    await fillArchive(database.url, SIZES);
    archive = new Deployment(database.url, database.name);
  });
  afterAll(async () => {
    running?.child.kill('SIGKILL');
    await running?.finished;
    await archive.remove();
    await database.drop();
  });

  async function begin(until: RegExp): Promise<void> {
    running = archive.start();
    await running.saw(until);
    const [, address] = await running.saw(/"apiAddress":"([^"]+)"/);
    api = `${address}/api/v1/data-sync`;
  }
  async function end(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    running?.child.kill(signal);
    const { code, stderr } = await running!.finished;
    if (signal === 'SIGTERM') expect(code, stderr).toBe(0);
    running = null;
  }
  async function ask(path: string, { as = 'operator', method = 'GET', body }: Asking = {}): Promise<Answer> {
    const response = await fetch(`${api}/${path}`, {
      method,
      headers: {
        ...(keys[as] && { authorization: `Bearer ${keys[as]}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return { status: response.status, json: (await response.json().catch(() => null)) as Json };
  }
  async function proven(repair: boolean): Promise<Json> {
    const { json } = await ask('consistency/check', { method: 'POST', body: { tables: PROVEN, repair } });
    let found: Json;
    await eventually('the comparison has ended', async () => {
      found = (await ask(`consistency/check/${json.run_id}`)).json;
      return found.status !== 'in_progress';
    });
    return found.validation;
  }

  it('is set up by one command, which two may give at once; what is missing then is said, and mended', async () => {
    const before = await archive.waltide(['setup', '--verify-setup']);
    expect([before.code, before.stdout]).toEqual([1, expect.stringMatching(/fail +"t_\w+" is not there/)]);
    expect(before.stdout).toContain('setup: slot: Run `waltide setup --setup-cdc`.');
    const both = await Promise.all([archive.waltide(['setup', '--all']), archive.waltide(['setup', '--all'])]);
    for (const { code, stdout, stderr } of both) expect(code, stdout + stderr).toBe(0);
    expect(both[0]?.stdout).toMatch(/set up: \d+ checks, none fails/);
    for (const role of ['viewer', 'operator', 'admin'])
      keys[role] = (await archive.ok('api-key', 'create', role, '--role', role)).trim();
  });

  it('copies, and follows what people and the scraper do, killed in the middle', async () => {
    await begin(/every existing row is copied/);
    const abort = new AbortController();
    const scraping = scrape(database.url, SIZES, { seed: 7, transactions: 100_000, signal: abort.signal });
    await eventually('pages have come', async () => (await ask('sync/status')).json.sinks?.[0]?.events > 5000);
    await end('SIGKILL');
    await begin(/"streaming"|streaming/);
    await archive.caughtUp();
    followed = new Date().toISOString();
    abort.abort();
    expect(await scraping).toBeGreaterThan(20);
  });

  it('lets in who has a key, and lets each do what the role may', async () => {
    expect((await ask('sync/status', { as: 'nobody' })).status).toBe(401);
    expect((await ask('sync/status', { as: 'viewer' })).status).toBe(200);
    const write = { table_name: 'projects', operation_type: 'update', primary_key: 1, data: { name: 'x' } };
    expect((await ask('sync/operation', { as: 'viewer', method: 'POST', body: write })).status).toBe(403);
    expect((await ask('audit-log', { as: 'operator' })).status).toBe(403);
    expect((await ask('audit-log', { as: 'admin' })).status).toBe(200);
  });

  it('writes strongly, eventually and weakly; a strong write is in DuckDB when it is answered', async () => {
    const body = {
      ...{ table_name: 'public.projects', operation_type: 'create', consistency_level: 'strong', timeout_ms: 60_000 },
      data: { user_id: 1, name: 'Hafen 新聞', status: 'draft', keywords: ['a', 'b"c'], budget: '12345678.90' },
    };
    const strong = await ask('sync/operation', { method: 'POST', body });
    expect([strong.status, strong.json.status]).toEqual([200, 'applied']);
    const { id } = strong.json.primary_key as { id: string };
    const sql = `select name, to_json(keywords)::varchar, budget::varchar from projects where id = ${id}`;
    const { json } = await ask('sinks/archive/query', { method: 'POST', body: { sql } });
    expect(json.rows).toEqual([['Hafen 新聞', '["a","b\\"c"]', '12345678.90']]);

    const update = { table_name: 'projects', operation_type: 'update', primary_key: id, data: { is_public: true } };
    const eventual = await ask('sync/operation', { method: 'POST', body: update });
    expect([eventual.status, eventual.json.status]).toEqual([200, 'committed']);
    const least = { sql: `select is_public from projects where id = ${id}`, min_lsn: eventual.json.lsn };
    expect((await ask('sinks/archive/query', { method: 'POST', body: least })).json.rows).toEqual([[true]]);
    const weak = await ask('sync/operation', {
      method: 'POST',
      body: { ...update, operation_type: 'delete', data: undefined, consistency_level: 'weak' },
    });
    expect(weak.status).toBe(202);
    await eventually('the queued write is made', async () => {
      const { json: operation } = await ask(`sync/operation/${weak.json.operation_id}`);
      return ['committed', 'applied'].includes(operation.status);
    });
    const secret = await ask('sync/operation', { method: 'POST', body: { ...update, table_name: 'sessions' } });
    expect(secret.status).toBeGreaterThanOrEqual(400);
  });

  it('sets a row aside that DuckDB cannot hold, and takes it when it is mended', async () => {
    await database.query(`update pages_v2 set quality = 'NaN' where id = (select min(id::text)::uuid from pages_v2)`);
    let letters: Json;
    await eventually('there is a letter', async () => {
      letters = (await ask('sync/dead-letter-queue')).json;
      return letters.total === 1;
    });
    expect(letters.letters[0]).toMatchObject({ table_name: 'public.pages_v2', sink: 'archive', state: 'open' });
    // The letter is of a table whose column is wider now: it fits.
    await database.query('alter table pages_v2 alter column quality type numeric');
    await archive.caughtUp();
    expect((await ask(`sync/dead-letter-queue/${letters.letters[0].id}/retry`, { method: 'POST' })).status).toBe(200);
    await eventually('it is applied', async () => (await ask('sync/dead-letter-queue')).json.total === 0);
    await database.query(`update pages_v2 set quality = 0.25 where quality = 'NaN'`);
  });

  it('runs its schedules, and writes Parquet', async () => {
    const { json } = await ask('schedules');
    const names = json.schedules.map(({ name, next_run_at }: Json) => [name, Boolean(next_run_at)]);
    expect(names.map(([name]: [string]) => name)).toEqual([
      'hourly',
      'full',
      'validation',
      'backup',
      'export',
      'cleanup',
    ]);
    for (const name of ['hourly', 'cleanup', 'export']) {
      await archive.ok('schedule', 'run', name);
      const [last] = JSON.parse(await archive.ok('history', '--type', name, '--limit', '1', '--json')) as Json;
      expect(last, name).toMatchObject({ status: 'success' });
    }
    const latest = await realpath(join(archive.folder, 'exports', 'latest'));
    const manifest = JSON.parse(await readFile(join(latest, 'manifest.json'), 'utf8')) as Json;
    const files = `'${latest}/public/pages_v2/*/*.parquet'`;
    const [[rows]] = (await inParquet(`select count(*)::int from ${files}`)) as [[number]];
    expect(rows).toBe(manifest.tables.find(({ table }: Json) => table === 'pages_v2').rows);
    expect(rows).toBeGreaterThan(2000);
    expect(await inParquet(`select distinct compression from parquet_metadata(${files})`)).toEqual([['ZSTD']]);
  });

  it('proves that DuckDB equals PostgreSQL, and finds and mends what was planted', async () => {
    await archive.caughtUp();
    const equal = await proven(false);
    expect(equal).toMatchObject({ ok: true, score: 100 });
    expect(equal.tables.map(({ table }: Json) => table).sort()).toEqual([...PROVEN].sort());
    expect(equal.rules).toHaveLength(6);
    expect(equal.references.every(({ orphans }: Json) => orphans.length === 0)).toBe(true);
    await end();
    await damage(
      archive.file,
      'delete from pages_v2 where id in (select id from pages_v2 order by id limit 3)',
      `update pages_v2 set title = title || ' ' where id in (select id from pages_v2 where title is not null order by id desc limit 2)`,
      `update users set email = 'nobody' where id = 5`,
      `insert into projects select * replace (1000000 as id) from projects order by id limit 1`,
    );
    await begin(/streaming/);
    const found = await proven(false);
    expect(found.ok).toBe(false);
    const counts = Object.fromEntries(
      found.tables.map(({ table, missing, extra, different }: Json) => [table, [missing, extra, different]]),
    );
    expect(counts).toEqual({
      ...{ 'public.users': [0, 0, 1], 'public.projects': [0, 1, 0], 'public.domains': [0, 0, 0] },
      'public.pages_v2': [3, 0, 2],
    });
    const mended = await proven(true);
    expect([mended.ok, mended.tables.reduce((sum: number, { repaired }: Json) => sum + repaired, 0)]).toEqual([
      true,
      7,
    ]);
    expect((await proven(false)).score).toBe(100);
  });

  it('comes back from a backup that was taken while it ran', async () => {
    await archive.ok('schedule', 'run', 'backup');
    const [backup] = await readdir(join(archive.folder, 'backups'));
    expect(await scrape(database.url, SIZES, { seed: 9, transactions: 40 })).toBe(40);
    await archive.caughtUp();
    await end();
    await truncate(archive.file, 100_000);
    const refused = await archive.waltide(['run', '--until-caught-up']);
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining('archive.duckdb')]);
    await archive.ok('restore', '--from', join(archive.folder, 'backups', backup!));
    await begin(/streaming/);
    await archive.caughtUp();
    expect((await proven(false)).score).toBe(100);
  });

  it('reads everything again, and applies the last hours again', async () => {
    await archive.ok('snapshot', 'start', 'public.*', '--wait');
    await database.query('update users set is_active = not is_active where id = 7');
    await archive.caughtUp();
    await archive.ok('replay', '--since', followed);
    await archive.caughtUp();
    expect((await proven(false)).score).toBe(100);
  });

  it('has every value of every table in the end', async () => {
    await scrape(database.url, SIZES, { seed: 8, transactions: 60 });
    await archive.caughtUp();
    await end();
    const { differences, tables } = await archive.compare();
    expect(differences).toEqual([]);
    expect(tables.map(({ table }) => table)).toEqual(['users', 'projects', 'domains', 'pages_v2', 'project_pages']);
    expect(tables.every(({ rows }) => rows > 50)).toBe(true);
    // What must not leave has not left.
    const held = await withDuckdb(archive.file, (query) =>
      query(`select table_name from duckdb_tables() where table_name in ('sessions', 'api_tokens')`),
    );
    expect(held).toEqual([]);
  });
});

interface Asking {
  readonly as?: string;
  readonly method?: string;
  readonly body?: unknown;
}

interface Answer {
  readonly status: number;
  readonly json: Json;
}

/** As any reader of the files would ask. */
async function inParquet(sql: string): Promise<readonly (readonly unknown[])[]> {
  const instance = await DuckDBInstance.create(':memory:');
  const connection = await instance.connect();
  try {
    return (await connection.runAndReadAll(sql)).getRows();
  } finally {
    connection.closeSync();
    instance.closeSync();
  }
}
