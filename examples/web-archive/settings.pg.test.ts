import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import type { Config } from '../../src/config/schema.ts';
import { paceOf, STRATEGIES } from '../../src/config/strategy.ts';
import { migrate } from '../../src/postgres/control.ts';
import { withSession } from '../../src/postgres/session.ts';
import { WriteWorker } from '../../src/write/worker.ts';
import { Writer } from '../../src/write/writer.ts';
import { withDuckdb } from '../../test/support/compare.ts';
import { catchUp, eventually, log, start } from '../../test/support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../../test/support/postgres.ts';
import { fillArchive } from './data.ts';
import { Deployment } from './setting.ts';

const FILE = fileURLToPath(new URL('waltide.yaml', import.meta.url));
const NEEDED = { DATABASE_URL: 'postgres://u@h/d', WEB_ARCHIVE_PROTECT_KEY: 'k'.repeat(32) };

const load = async (env: Record<string, string> = {}): Promise<Config> =>
  (await loadConfig({ file: FILE, env: { ...NEEDED, ...env } })).config;

/** Every variable of the older deployment: what is in force by default, and once it is set. */
const SETTINGS: readonly [string, string, (config: Config) => unknown, unknown, unknown][] = [
  ['DATA_SYNC_ENABLED', 'False', (c) => c.enabled, true, false],
  ['DATA_SYNC_STRATEGY', 'BATCH', (c) => paceOf(c, c.sinks[0]!).base.lingerMs, 500, STRATEGIES.batch.lingerMs],
  ['DATA_SYNC_BATCH_SIZE', '500', (c) => c.snapshot.chunkRows, 10_000, 500],
  ['DATA_SYNC_CONSISTENCY_LEVEL', 'strong', (c) => c.writes.consistency, 'eventual', 'strong'],
  ['ENABLE_DUAL_WRITE', '0', (c) => c.writes.enabled, true, false],
  [
    'DUCKDB_DATABASE_PATH',
    '/srv/a.duckdb',
    (c) => c.sinks[0]!.path,
    expect.stringMatching(/data\/web_archive\.duckdb$/),
    '/srv/a.duckdb',
  ],
  ['DUCKDB_MEMORY_LIMIT', '4GB', (c) => c.sinks[0]!.memoryLimit, '1GB', '4GB'],
  ['DUCKDB_WORKER_THREADS', '1', (c) => c.sinks[0]!.threads, 4, 1],
  ['DUCKDB_ENABLE_S3', 'yes', (c) => c.sinks[0]!.s3, false, true],
  ['CDC_ENABLED', 'off', (c) => c.source.follow, true, false],
  [
    'CDC_REPLICATION_SLOT_NAME',
    'mine',
    (c) => [c.source.slot, c.source.publication],
    ['web_archive', 'web_archive'],
    ['mine', 'mine'],
  ],
  [
    'CDC_MONITORED_TABLES',
    'users, projects',
    (c) => c.source.tables,
    ['users', 'projects', 'domains', 'pages_v2', 'project_pages'],
    ['users', 'projects'],
  ],
  ['CDC_MAX_BATCH_SIZE', '50', (c) => paceOf(c, c.sinks[0]!).base.rowsMax, 1000, 50],
  ['ENABLE_SYNC_MONITORING', 'false', (c) => [c.metrics.enabled, c.alerts.enabled], [true, true], [false, false]],
  ['SYNC_LAG_ALERT_THRESHOLD_MINUTES', '5', (c) => c.alerts.rules.sinkLag.minutesMax, 15, 5],
  ['CONSISTENCY_SCORE_ALERT_THRESHOLD', '99.5', (c) => c.alerts.rules.consistencyScore.scoreMin, 90, 99.5],
  ['DEAD_LETTER_QUEUE_ALERT_THRESHOLD', '3', (c) => c.alerts.rules.deadLetters.openMax, 100, 3],
  ['MAX_CONCURRENT_SYNC_OPERATIONS', '2', (c) => c.writes.connectionsMax, 10, 2],
  ['SYNC_WORKER_BATCH_SIZE', '7', (c) => c.writes.batchMax, 100, 7],
  ['REAL_TIME_QUEUE_SIZE', '9', (c) => c.writes.waitingMax, 1000, 9],
  ['BATCH_QUEUE_SIZE', '11', (c) => c.writes.queueMax, 10_000, 11],
  ['PARQUET_COMPRESSION', 'SNAPPY', (c) => c.exports.compression, 'zstd', 'snappy'],
  ['PARQUET_ROW_GROUP_SIZE', '5000', (c) => c.exports.rowGroupSize, 1_000_000, 5000],
];

describe('the settings of the older deployment', () => {
  it.each(SETTINGS)('%s=%s', async (variable, text, read, standard, changed) => {
    expect(read(await load())).toEqual(standard);
    expect(read(await load({ [variable]: text }))).toEqual(changed);
    expect(read(await load({ [variable]: '' }))).toEqual(standard);
  });

  it('are refused where they make no sense, by the line that they are in', async () => {
    for (const [variable, text] of [
      ['DATA_SYNC_STRATEGY', 'sometimes'],
      ['CDC_MAX_BATCH_SIZE', 'many'],
      ['DUCKDB_MEMORY_LIMIT', 'all'],
      ['CDC_ENABLED', 'perhaps'],
      ['CONSISTENCY_SCORE_ALERT_THRESHOLD', '101'],
    ] as const)
      await expect(load({ [variable]: text }), variable).rejects.toMatchObject({
        code: 'CONFIG_INVALID',
        message: expect.stringMatching(/waltide\.yaml:\d+/),
      });
    await expect(loadConfig({ file: FILE, env: {} })).rejects.toThrow(/DATABASE_URL is not set/);
  });
});

describe('what they do', { timeout: 300_000 }, () => {
  let database: TestDatabase;
  let archive: Deployment;
  const config = (env: Record<string, string> = {}): Promise<Config> => load({ ...archive.env, ...env });
  beforeAll(async () => {
    database = await createDatabase();
    await fillArchive(database.url, { users: 20, projects: 20, domains: 20, pages: 100 });
    archive = new Deployment(database.url, database.name);
    await withSession((await config()).source, 'setup', migrate);
  });
  afterAll(async () => {
    await archive.remove();
    await database.drop();
  });
  const asked = async (sql: string): Promise<unknown[]> =>
    (await withDuckdb(archive.file, (query) => query(sql)))[0] as unknown[];
  const pages = async (): Promise<number> =>
    Number((await database.query('select count(*)::int n from pages_v2'))[0]!.n);

  it('DATA_SYNC_ENABLED=false: nothing is touched', async () => {
    const { code, stderr } = await archive.waltide(['run'], { DATA_SYNC_ENABLED: 'false' });
    expect([code, stderr]).toEqual([0, expect.stringContaining('`enabled` is false')]);
    expect(await database.query(`select from pg_replication_slots where slot_name = '${database.name}'`)).toEqual([]);
  });

  it('DUCKDB_ENABLE_S3: refused without the extension; without it no query leaves the file', async () => {
    await expect(catchUp(await config({ DUCKDB_ENABLE_S3: 'true' }))).rejects.toMatchObject({
      code: 'SINK_INVALID',
      message: expect.stringContaining('httpfs cannot be loaded'),
      help: expect.stringContaining('INSTALL httpfs'),
    });
  });

  it('CDC_ENABLED=false: rows are copied, changes stay in the slot until a run takes them in', async () => {
    const resting = start(await config({ CDC_ENABLED: 'false' }));
    await eventually('it rests', () => resting.pipeline.status().state === 'resting');
    expect(resting.pipeline.status().ready).toBe(true);
    await database.query('delete from pages_v2 where id = (select min(id::text)::uuid from pages_v2)');
    const limits = { rowsMax: 1, timeoutMs: 10_000 };
    const { rows } = await resting.pipeline.query('select count(*)::int from pages_v2', limits);
    expect(rows).toEqual([[(await pages()) + 1]]);
    await expect(resting.pipeline.query("select * from 's3://bucket/x.parquet'", limits)).rejects.toThrow();
    await resting.stop();
    await catchUp(await config({ CDC_ENABLED: 'false' }));
    expect(await asked('select count(*)::int from pages_v2')).toEqual([await pages()]);
  });

  it('DUCKDB_MEMORY_LIMIT and DUCKDB_WORKER_THREADS are what DuckDB works with', async () => {
    const running = start(await config({ DUCKDB_MEMORY_LIMIT: '400MB', DUCKDB_WORKER_THREADS: '3' }));
    await eventually('it streams', () => running.pipeline.status().state === 'streaming');
    const sql = `select current_setting('threads')::int, current_setting('memory_limit')`;
    // DuckDB counts half of what it takes.
    expect((await running.pipeline.query(sql, { rowsMax: 1, timeoutMs: 10_000 })).rows).toEqual([[3, '190.7 MiB']]);
    await running.stop();
  });

  it('CDC_MONITORED_TABLES: others stay as they were, and what is excluded never comes', async () => {
    await catchUp(await config({ CDC_MONITORED_TABLES: 'users,sessions,projects' }));
    const published = await database.query(
      `select string_agg(tablename, ',' order by tablename) t from pg_publication_tables where pubname = '${database.name}'`,
    );
    expect(published).toEqual([{ t: 'projects,users' }]);
  });

  it('MAX_CONCURRENT_SYNC_OPERATIONS and REAL_TIME_QUEUE_SIZE: so many writes at once, so many wait, more are refused', async () => {
    const writer = new Writer({
      config: await config({ MAX_CONCURRENT_SYNC_OPERATIONS: '1', REAL_TIME_QUEUE_SIZE: '2' }),
      log,
    });
    const write = () => writer.write({ table: 'users', type: 'update', primaryKey: 1, data: { is_active: true } });
    const ends = await Promise.allSettled(Array.from({ length: 5 }, write));
    expect(ends.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
    expect(ends.filter(({ status }) => status === 'rejected')).toHaveLength(2);
    await writer.close();
  });

  it('BATCH_QUEUE_SIZE and SYNC_WORKER_BATCH_SIZE: so many weak writes are queued, so many are made in one transaction', async () => {
    const some = await config({ BATCH_QUEUE_SIZE: '4', SYNC_WORKER_BATCH_SIZE: '2' });
    const writer = new Writer({ config: some, log });
    const write = (id: number) =>
      writer.write({ table: 'users', type: 'update', primaryKey: id, data: { phone: 'x' }, consistency: 'weak' });
    for (const id of [1, 2, 3, 4]) await write(id);
    await expect(write(5)).rejects.toMatchObject({
      code: 'SOURCE_BUSY',
      message: expect.stringContaining('4 writes wait'),
    });
    await database.query(`create function stamp() returns trigger language plpgsql as $$ begin new.phone := 'x' || pg_current_xact_id(); return new; end $$;
      create trigger stamp before update on users for each row execute function stamp()`);
    const worker = new WriteWorker({ config: some, log });
    await worker.start();
    const made = `select count(*)::int n, count(distinct phone)::int t from users where phone like 'x%'`;
    await eventually('all are made', async () => (await database.query(made))[0]!.n === 4);
    expect((await database.query(made))[0]!.t).toBe(2);
    await worker.stop();
    await database.query('drop function stamp cascade');
    await writer.close();
  });

  it('ENABLE_DUAL_WRITE and DATA_SYNC_CONSISTENCY_LEVEL: what a write waits for unless it says so', async () => {
    const writer = new Writer({ config: await config({ DATA_SYNC_CONSISTENCY_LEVEL: 'weak' }), log });
    const { state } = await writer.write({ table: 'users', type: 'update', primaryKey: 2, data: { is_active: true } });
    expect(state).toBe('queued');
    await writer.close();
  });
});
