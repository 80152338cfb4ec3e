import { rmSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import type { WaltideError } from '../../src/errors.ts';
import { parseLsn } from '../../src/event/lsn.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { FakePooler } from '../support/fake-pooler.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, query, startPostgres, type TestDatabase } from '../support/postgres.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

let database: TestDatabase;
let config: Config;
let path: string;

const compare = (url: string): Promise<string[]> => withDuckdb(path, (run) => differences(url, run, TABLES));
const refusal = (promise: Promise<unknown>): Promise<WaltideError> =>
  promise.then(
    () => {
      throw new Error('it was not refused');
    },
    (error: WaltideError) => error,
  );

describe('faults on the way', () => {
  beforeEach(async () => {
    database = await createDatabase();
    ({ config, path } = testPipeline(database));
  });
  afterEach(() => database.drop());

  it('loses nothing when the connection is cut again and again', async () => {
    await database.query(SCHEMA);
    const running = start(config);
    const writing = new AbortController();
    const workload = runWorkload(database.url, 7, writing.signal);
    const reconnects = (): number => running.pipeline.status().source?.reconnects ?? 0;
    for (let i = 0; i < 8; i++) {
      await eventually('it streams', () => running.pipeline.status().source?.connected === true);
      await new Promise((resolve) => setTimeout(resolve, 300));
      const before = reconnects();
      await database.query(
        'select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active_pid is not null',
        [database.name],
      );
      await eventually('it has connected again', () => reconnects() > before);
    }
    writing.abort();
    await workload;
    await running.stop();
    expect(await catchUp(config)).toEqual([]);
    expect(await compare(database.url)).toEqual([]);
  });

  it('loses nothing when TCP connections are reset in the middle of messages', async () => {
    await database.query(SCHEMA);
    const proxy = await TcpProxy.before(database.url);
    const cut = { ...config, source: { ...config.source, url: proxy.through(database.url) } };
    const running = start(cut);
    const writing = new AbortController();
    const workload = runWorkload(database.url, 8, writing.signal);
    for (let i = 0; i < 12; i++) {
      await eventually('it streams', () => running.pipeline.status().source?.connected === true);
      await new Promise((resolve) => setTimeout(resolve, 37 * i));
      proxy.cut();
    }
    writing.abort();
    await workload;
    await eventually('it streams again', () => running.pipeline.status().source?.connected === true);
    await running.stop();
    await proxy.close();
    expect(await catchUp(config)).toEqual([]);
    expect(await compare(database.url)).toEqual([]);
  });

  it('holds back the source while a sink stands still for a minute, and goes on with nothing lost or repeated', {
    timeout: 300_000,
  }, async () => {
    await database.query('create table t (id int primary key, body text)');
    const sink = new MemorySink();
    const small = testPipeline(database, {
      sinks: [],
      transport: { type: 'in-process', inFlightBytesMax: 1_000_000 },
    }).config;
    await catchUp(small, { sinks: [sink] });
    let release = (): void => {};
    const paused = new Promise<void>((resolve) => (release = resolve));
    sink.before = () => paused;
    const running = start(small, { sinks: [sink] });
    await database.query("insert into t select i, repeat('x', 1000) from generate_series(1, 200000) i");
    await eventually('the budget is used up', () => running.pipeline.status().transport.bytesInFlight > 1_000_000);
    const before = process.memoryUsage.rss();
    for (
      const until = Date.now() + 60_000;
      Date.now() < until;
      await new Promise((resolve) => setTimeout(resolve, 500))
    ) {
      // One read of the socket may go over it, and no more.
      expect(running.pipeline.status().transport.bytesInFlight).toBeLessThan(8_000_000);
      // Of the 200 MB that wait.
      expect(process.memoryUsage.rss() - before).toBeLessThan(120_000_000);
    }
    expect(running.pipeline.status().source?.connected).toBe(true);
    release();
    await eventually('all is applied', () => sink.events.length >= 200_000);
    await running.stop();
    expect(sink.events.filter((event) => event.op === 'c').map((event) => Number(event.key))).toEqual(
      Array.from({ length: 200_000 }, (_, i) => i + 1),
    );
  });

  it('begins the copy again when the first one was cut short', async () => {
    await database.query('create table t (id int primary key); insert into t values (1), (2)');
    await catchUp(config);
    await database.query("update waltide.slots set state = 'copying'");
    await database.query('delete from t where id = 1; insert into t values (3)');
    await catchUp(config);
    expect(await withDuckdb(path, (run) => run('select id from t order by id'))).toEqual([[2], [3]]);
  });

  it('fills a deleted file and a second sink again, beside the stream', async () => {
    await database.query('create table t (id int primary key); insert into t values (1), (2)');
    await catchUp(config);
    rmSync(path);
    await database.query('insert into t values (3)');
    await catchUp(config);
    const ids = [[1], [2], [3]];
    expect(await withDuckdb(path, (run) => run('select id from t order by id'))).toEqual(ids);
    const second = `${path}.second`;
    await catchUp({ ...config, sinks: [...config.sinks, { ...config.sinks[0]!, name: 'second', path: second }] });
    for (const file of [path, second])
      expect(await withDuckdb(file, (run) => run('select id from t order by id'))).toEqual(ids);
  });

  it('refuses a slot that someone dropped, advanced, uses or made', async () => {
    await database.query('create table t (id int primary key)');
    await catchUp(config);
    await database.query('insert into t values (1)');
    await database.query('select pg_replication_slot_advance($1, pg_current_wal_lsn())', [database.name]);
    expect(await refusal(catchUp(config))).toMatchObject({ code: 'SLOT_AHEAD' });
    await database.query('select pg_drop_replication_slot($1)', [database.name]);
    expect(await refusal(catchUp(config))).toMatchObject({ code: 'SLOT_MISSING' });
    await catchUp(config, { recopy: true });

    const running = start(config);
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    const other = testPipeline(database, {}, { slotWaitMs: 600 }).config;
    const busy = await refusal(catchUp(other));
    expect(busy).toMatchObject({ code: 'SLOT_IN_USE', message: expect.stringMatching(/pid \d+/) });
    await running.stop();

    const foreign = testPipeline(database, {}, { slot: `${database.name}_f` }).config;
    await database.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [`${database.name}_f`]);
    expect(await refusal(catchUp(foreign))).toMatchObject({ code: 'SLOT_FOREIGN' });
  });

  it('refuses tables and publications that do not fit, and says which', async () => {
    await database.query('create table t (id int primary key); create table u (id int primary key)');
    expect(await refusal(catchUp(testPipeline(database, {}, { tables: ['public.tt'] }).config))).toMatchObject({
      code: 'TABLES',
      message: expect.stringContaining('"public.tt" matches no table'),
    });
    await database.query(`create publication ${database.name}_p for table t`);
    const error = await refusal(catchUp(testPipeline(database, {}, { publication: `${database.name}_p` }).config));
    expect(error).toMatchObject({ code: 'PUBLICATION', message: expect.stringContaining('public.u') });
  });

  it('never takes a table for empty whose rows row-level security hides, or that may not be read', async () => {
    const role = `r_${database.name}`;
    await database.query(`create table t (id int primary key); insert into t values (1);
      create table hidden (id int primary key); insert into hidden values (1); alter table hidden enable row level security;
      create table closed (id int primary key); insert into closed values (1);
      create role ${role} login replication password 'pw'; grant create on database ${database.name} to ${role};
      grant select on t, hidden to ${role}; create publication ${database.name} for all tables`);
    const url = new URL(database.url);
    url.username = role;
    url.password = 'pw';
    const { config, path: file } = testPipeline(database, {}, { url: url.href });
    for (const _ of ['at once', 'and again'])
      expect(await refusal(catchUp(config))).toMatchObject({
        code: 'SOURCE_RIGHTS',
        message:
          'this role may not read public.closed; row-level security would hide rows of public.hidden from this role',
      });
    expect(await database.query('select from pg_replication_slots where slot_name = $1', [database.name])).toEqual([]);
    await database.query(`grant select on closed to ${role}`);
    expect(await refusal(catchUp(config))).toMatchObject({
      message: 'row-level security would hide rows of public.hidden from this role',
    });
    await database.query(`alter role ${role} bypassrls`);
    expect(await catchUp(config)).toEqual([]);
    expect(
      await withDuckdb(file, (run) => differences(database.url, run, ['public.t', 'public.hidden', 'public.closed'])),
    ).toEqual([]);
    await database.query(`drop owned by ${role} cascade; drop role ${role}`);
  });

  it('refuses a pooler that drops session settings, before anything is made in the source', async () => {
    await database.query('create table t (id int primary key)');
    const pooler = await FakePooler.before(database.url);
    const url = new URL(database.url);
    url.port = String(pooler.port);
    const error = await refusal(catchUp(testPipeline(database, {}, { url: `${url.href}?sslmode=disable` }).config));
    await pooler.close();
    expect(error).toMatchObject({ code: 'SOURCE_SETTINGS', message: expect.stringContaining('extra_float_digits') });
    expect(await database.query("select from pg_namespace where nspname = 'waltide'")).toEqual([]);
  });

  it('refuses a file that is not a DuckDB database, before anything is made in the source', async () => {
    await database.query('create table t (id int primary key)');
    writeFileSync(path, 'this is not a database, it only looks like a file'.repeat(100));
    expect(await refusal(catchUp(config))).toMatchObject({ code: 'SINK_INVALID' });
    expect(await database.query('select 1 from pg_replication_slots where slot_name = $1', [database.name])).toEqual(
      [],
    );
  });

  it('sets aside the table that cannot be held, durably, and goes on with the others', async () => {
    await database.query('create table bad (id int primary key, d timestamp); create table good (id int primary key)');
    await catchUp(config);
    await database.query('alter table bad add column "D" int; insert into bad values (1); insert into good values (1)');
    const stopped = await catchUp(config);
    expect(stopped).toMatchObject([{ sink: 'analytics', table: 'public.bad' }]);
    await database.query(
      'alter table bad drop column "D"; delete from bad; insert into bad values (2); insert into good values (2)',
    );
    expect(await catchUp(config)).toHaveLength(1);
    expect(
      await withDuckdb(path, (run) => run('select (select count(*)::int from bad), (select count(*)::int from good)')),
    ).toEqual([[0, 2]]);
    expect(await catchUp(config, { recopy: true })).toEqual([]);
    expect(await withDuckdb(path, (run) => run('select id from bad'))).toEqual([[2]]);
  });

  it('says which transactions block the making of a slot, and gives up in time', async () => {
    await database.query('create table t (id int primary key)');
    const blocked = testPipeline(database, {}, { slotCreateWaitMs: 3000 }).config;
    const pg = await import('pg');
    const blocker = new pg.default.Client(database.url);
    await blocker.connect();
    await blocker.query('begin; insert into t values (1)');
    try {
      const error = await refusal(catchUp(blocked));
      expect(error).toMatchObject({ code: 'SLOT_BLOCKED', message: expect.stringMatching(/pid \d+/) });
    } finally {
      await blocker.query('rollback');
      await blocker.end();
    }
    await catchUp(config);
  });
});

describe('a server that goes away', () => {
  let server: EmbeddedPostgres;
  beforeAll(async () => {
    server = await startPostgres();
  });
  afterAll(() => server.stop());

  it('loses nothing when PostgreSQL is restarted, and when it is killed', async () => {
    const own = await createDatabase(server.url);
    ({ config, path } = testPipeline(own));
    await query(own.url, SCHEMA);
    const running = start(config);
    for (const down of [
      () => server.restart(),
      async () => {
        await server.kill();
        await server.start();
      },
    ]) {
      const writing = new AbortController();
      const workload = runWorkload(own.url, 3, writing.signal).catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, 1500));
      await down();
      writing.abort();
      await workload;
      await runWorkload(own.url, 4, AbortSignal.timeout(500));
    }
    await running.stop();
    expect(await catchUp(config)).toEqual([]);
    expect(await compare(own.url)).toEqual([]);
  });

  it('is waited for when everything is opened again, or its first copy was cut short', async () => {
    const own = await createDatabase(server.url);
    ({ config, path } = testPipeline(own, {}, { retain: { bytes: 1e9 } }));
    await query(
      own.url,
      'create table t (id int primary key, v text); insert into t select generate_series(1, 200000)',
    );
    const running = start(config);
    await eventually('it copies', () => running.pipeline.status().copy.some(({ rows }) => rows > 0));
    await server.kill();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await server.start();
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    const [row] = await query(own.url, "insert into t values (0, 'first'); select pg_current_wal_lsn()::text as lsn");
    await query(own.url, "insert into t values (-1, 'replayed')");
    await server.kill();
    const replay = { sink: 'analytics', tables: null, from: { lsn: parseLsn(row!.lsn as string) } };
    const refused = running.pipeline.replay(replay).catch((error: WaltideError) => error.code);
    expect(running.pipeline.beginAgain({ reason: 'a test' })).toBe(true);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect(await refused).toMatch(/^SOURCE_/);
    await server.start();
    await eventually('it streams again', () => running.pipeline.status().source?.connected === true);
    await running.stop();
    expect(await catchUp(config)).toEqual([]);
    expect(await withDuckdb(path, (run) => differences(own.url, run, ['public.t']))).toEqual([]);
  });

  it('refuses a wrong password, a wrong database, a silent host, and wal_level = replica', async () => {
    const at = (change: (url: URL) => void): Config => {
      const url = new URL(server.url);
      change(url);
      return testPipeline({ url: url.href, name: 'x' } as TestDatabase, {}, { connectTimeoutMs: 30_000 }).config;
    };
    expect(
      await refusal(
        catchUp(
          at((url) => {
            url.password = 'wrong';
          }),
        ),
      ),
    ).toMatchObject({ code: 'SOURCE_AUTHENTICATION' });
    expect(
      await refusal(
        catchUp(
          at((url) => {
            url.pathname = '/nowhere';
          }),
        ),
      ),
    ).toMatchObject({ code: 'SOURCE_DATABASE_MISSING' });
    expect(
      await refusal(
        catchUp(
          at((url) => {
            url.port = '1';
          }),
        ),
      ),
    ).toMatchObject({ code: 'SOURCE_UNREACHABLE' });
    expect(
      (
        await refusal(
          catchUp(
            at((url) => {
              url.password = 'wrong-secret';
            }),
          ),
        )
      ).message,
    ).not.toContain('wrong-secret');
    const replica = await startPostgres({ wal_level: 'replica' });
    try {
      expect(
        await refusal(catchUp(testPipeline({ url: replica.url, name: 'x' } as TestDatabase).config)),
      ).toMatchObject({ code: 'SOURCE_SETTINGS', message: expect.stringContaining('wal_level') });
    } finally {
      await replica.stop();
    }
  });
});
