import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CheckResult } from '../../src/cli/doctor/check.ts';
import type { ConfigInput } from '../../src/config/schema.ts';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { FakePooler } from '../support/fake-pooler.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, query, startPostgres, type TestDatabase } from '../support/postgres.ts';
import { STANDBY_SLOT, type Standby, startStandby } from '../support/standby.ts';
import { cli, makeProject } from './support.ts';

interface Diagnosis {
  readonly code: number;
  readonly checks: CheckResult[];
  /** Status of the first check of that name, worst first. */
  status(name: string): string | undefined;
  detail(name: string): string;
}

async function diagnose(config: ConfigInput, prepare?: (dir: string) => Promise<unknown>): Promise<Diagnosis> {
  const project = await makeProject(config);
  try {
    await prepare?.(project.dir);
    const { code, stdout, stderr } = await cli(project.dir, 'doctor', '--json');
    expect(stderr).toBe('');
    const { checks } = JSON.parse(stdout) as { checks: CheckResult[] };
    const of = (name: string): CheckResult[] => checks.filter((check) => check.name === name);
    for (const check of checks)
      expect(check.remedy === null, `${check.name}: ${check.detail}`).toBe(
        check.status === 'ok' || check.status === 'skip',
      );
    return {
      code,
      checks,
      status: (name) =>
        ['fail', 'warn', 'skip', 'ok'].find((status) => of(name).some((check) => check.status === status)),
      detail: (name) =>
        of(name)
          .map((check) => `${check.detail} ${check.remedy ?? ''}`)
          .join('\n'),
    };
  } finally {
    await project.remove();
  }
}

describe('a healthy server', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
    await database.query('create table public.a (id int primary key, t text)');
  });
  afterAll(() => database.drop());

  test('nothing fails, and nothing is changed', async () => {
    const snapshot = (): Promise<unknown> =>
      database.query(`select (select count(*) from pg_namespace) n, (select count(*) from pg_publication) p, (select count(*) from pg_class) c,
                             (select count(*) from pg_replication_slots where database = current_database()) s`);
    const before = await snapshot();
    const found = await diagnose({
      source: { url: database.url, slot: database.name, tables: ['public.*'] },
      sinks: [{ name: 's', type: 'duckdb', path: 'new/a.duckdb' }],
    });
    expect(found.checks.filter((check) => check.status === 'fail')).toEqual([]);
    expect(found.code).toBe(0);
    expect(found.status('source.tables')).toBe('ok');
    expect(found.detail('sink s')).toContain('will be created');
    expect(await snapshot()).toEqual(before);
  });

  test('for people: one line each, and a verdict', async () => {
    const project = await makeProject({ source: { url: database.url, slot: database.name, tables: ['public.*'] } });
    const { code, stdout } = await cli(project.dir, 'doctor');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^ok {4}connection {2,}127\.0\.0\.1:\d+\/\S+ as postgres$/m);
    expect(stdout).toMatch(/ready to run/);
    await project.remove();
  });

  test('tables that cannot be taken, each with why', async () => {
    await database.query(
      `create schema odd; create table odd.keyless (a int); create unlogged table odd.unlogged (id int primary key); create view odd.view as select 1 as x`,
    );
    const found = await diagnose({ source: { url: database.url, slot: database.name, tables: ['public.*', 'odd.*'] } });
    expect(found.status('tables without a key')).toBe('warn');
    expect(found.detail('tables without a key')).toContain('odd.keyless');
    expect(found.detail('tables left out')).toMatch(/odd\.unlogged: it is UNLOGGED.*SET LOGGED/);
    expect(found.code).toBe(0);
    const insertOnly = await diagnose({
      source: { url: database.url, slot: database.name, tables: ['odd.*'], keylessTables: 'insert-only' },
    });
    expect(insertOnly.detail('tables without a key')).toContain('inserts only');
  });

  test('a pattern that matches nothing', async () => {
    const found = await diagnose({
      source: { url: database.url, slot: database.name, tables: ['public.*', 'public.nope'] },
    });
    expect(found.status('source.tables')).toBe('fail');
    expect(found.detail('source.tables')).toContain('"public.nope" matches no table');
    expect(found.code).toBe(1);
  });

  test("someone else's publication that carries another set", async () => {
    await database.query(
      'create table if not exists public.b (id int primary key); create publication theirs for table public.b',
    );
    const found = await diagnose({
      source: { url: database.url, slot: database.name, tables: ['public.a'], publication: 'theirs' },
    });
    expect(found.status('publication')).toBe('fail');
    expect(found.detail('publication')).toContain('public.a');
    const fits = await diagnose({
      source: { url: database.url, slot: database.name, tables: ['public.b'], publication: 'theirs' },
    });
    expect(fits.status('publication')).toBe('ok');
    await database.query(`alter publication theirs set (publish = 'insert')`);
    expect(
      (
        await diagnose({
          source: { url: database.url, slot: database.name, tables: ['public.b'], publication: 'theirs' },
        })
      ).status('publication'),
    ).toBe('warn');
  });

  test('a slot of another plugin, one that Waltide has not made, one that is gone', async () => {
    await database.query(`select pg_create_logical_replication_slot('${database.name}_x', 'pgoutput')`);
    const source = { url: database.url, tables: ['public.*'] };
    const unknown = await diagnose({ source: { ...source, slot: `${database.name}_x` } });
    expect(unknown.status('slot')).toBe('fail');
    expect(unknown.detail('slot')).toContain('Waltide has not made it');
    await database.query(
      `create schema waltide; create table waltide.slots (slot_name text primary key, state text, consistent_point pg_lsn, tables jsonb default '[]')`,
    );
    await database.query(
      `insert into waltide.slots values ('${database.name}_gone', 'streaming'), ('${database.name}_x', 'copying')`,
    );
    expect((await diagnose({ source: { ...source, slot: `${database.name}_gone` } })).detail('slot')).toMatch(
      /is gone[\s\S]*--recopy/,
    );
    expect((await diagnose({ source: { ...source, slot: `${database.name}_x` } })).detail('slot')).toContain(
      'was not finished',
    );
    await database.query('drop schema waltide cascade');
  });
});

describe('a role with too few rights', () => {
  let database: TestDatabase;
  let url: string;
  const role = `weak_${process.pid}_${Date.now().toString(36)}`;
  beforeAll(async () => {
    database = await createDatabase();
    await database.query(
      `create table public.a (id int primary key); create table public.rls (id int primary key); alter table public.rls enable row level security`,
    );
    await database.query(
      `create role ${role} login password 'x'; revoke create on database ${database.name} from public`,
    );
    url = database.url.replace(/\/\/.*@/, `//${role}:x@`);
  });
  afterAll(async () => {
    await database.query(`drop owned by ${role} cascade; drop role ${role}`);
    await database.drop();
  });

  test('every right that is missing is listed at once', async () => {
    const found = await diagnose({ source: { url, slot: database.name, tables: ['public.*'] } });
    const names = found.checks.map(({ name }) => name);
    expect(names).toHaveLength(new Set(names).size);
    const failed = new Set(found.checks.filter((check) => check.status === 'fail').map((check) => check.name));
    expect(failed).toEqual(
      new Set(['replication right', 'right to read', 'row-level security', 'right to schema waltide', 'publication']),
    );
    expect(found.detail('right to read')).toContain('GRANT SELECT ON public.a, public.rls');
    expect(found.status('replication connection')).toBe('skip');
    expect(found.status('long transactions')).toBe('skip');
    expect(found.code).toBe(1);
  });

  test('rights step by step', async () => {
    await database.query(
      `alter role ${role} replication bypassrls; grant create on database ${database.name} to ${role}; grant select on all tables in schema public to ${role}`,
    );
    const found = await diagnose({ source: { url, slot: database.name, tables: ['public.*'] } });
    expect(found.checks.filter((check) => check.status === 'fail').map((check) => check.name)).toEqual(['publication']);
    expect(found.detail('publication')).toContain('does not own public.a, public.rls');
    await database.query(`alter table public.a owner to ${role}; alter table public.rls owner to ${role}`);
    expect((await diagnose({ source: { url, slot: database.name, tables: ['public.*'] } })).code).toBe(0);
  });

  test('a schema that may not be entered', async () => {
    await database.query(
      `create schema closed; create table closed.t (id int primary key); alter table closed.t owner to ${role}`,
    );
    const found = await diagnose({ source: { url, slot: database.name, tables: ['closed.*'] } });
    expect(found.detail('right to read')).toContain('GRANT USAGE ON SCHEMA');
  });

  test('wrong password, wrong database, nobody there: one failure, the rest still listed', async () => {
    const closed = createServer().listen(0, '127.0.0.1');
    await once(closed, 'listening');
    const { port } = closed.address() as AddressInfo;
    closed.close();
    await once(closed, 'close');
    for (const [wrong, message] of [
      [url.replace(':x@', ':y@'), /refused the login|password/],
      [url.replace(/[^/]*$/, 'nowhere'), /does not exist/],
      [`postgres://u:p@127.0.0.1:${port}/db`, /ECONNREFUSED/],
    ] as const) {
      const found = await diagnose({
        source: { url: wrong, slot: 's', tables: ['public.*'] },
        sinks: [{ name: 's', type: 'duckdb', path: 'a.duckdb' }],
      });
      expect(found.detail('connection')).toMatch(message);
      expect(found.checks.filter((check) => check.status === 'fail')).toHaveLength(1);
      expect(found.checks.filter((check) => check.status === 'skip').length).toBeGreaterThan(15);
      expect(found.status('sink s')).toBe('ok');
      expect(found.code).toBe(1);
    }
  });
});

describe('a crippled server', () => {
  let server: EmbeddedPostgres;
  beforeAll(async () => {
    server = await startPostgres({
      wal_level: 'replica',
      max_replication_slots: '1',
      max_wal_senders: '1',
      wal_sender_timeout: '1s',
      idle_replication_slot_timeout: '60s',
      max_prepared_transactions: '2',
    });
    await query(server.url, `create table a (id int primary key); select pg_create_physical_replication_slot('taken')`);
  });
  afterAll(() => server.stop('immediate'));

  test('each setting has its own line', async () => {
    const found = await diagnose({ source: { url: server.url, tables: ['public.*'] } });
    expect(found.status('wal_level')).toBe('fail');
    expect(found.detail('wal_level')).toContain('is replica');
    expect(found.status('replication slots')).toBe('fail');
    expect(found.detail('replication slots')).toContain('1 of max_replication_slots = 1');
    for (const name of ['wal_sender_timeout', 'idle_replication_slot_timeout', 'max_slot_wal_keep_size'])
      expect(found.status(name), name).toBe('warn');
    expect(found.status('walsenders')).toBe('ok');
  });

  test('a prepared transaction would hold up creating the slot', async () => {
    await query(server.url, `begin; insert into a values (1); prepare transaction 'forgotten'`);
    const found = await diagnose({ source: { url: server.url, tables: ['public.*'] } });
    expect(found.status('long transactions')).toBe('warn');
    expect(found.detail('long transactions')).toMatch(/'forgotten'[\s\S]*ROLLBACK PREPARED 'forgotten'/);
    await query(server.url, `rollback prepared 'forgotten'`);
  });

  test('a lost slot', async () => {
    await server.restart({ wal_level: 'logical', max_replication_slots: '4', max_slot_wal_keep_size: '1MB' });
    await query(server.url, `select pg_create_logical_replication_slot('waltide', 'pgoutput')`);
    // Two segments, then a checkpoint, which is what removes WAL and invalidates slots.
    for (let i = 0; i < 3; i++)
      await query(
        server.url,
        'insert into a select g from generate_series(1, 10) g on conflict do nothing; select pg_switch_wal(); checkpoint',
      );
    const found = await diagnose({ source: { url: server.url, tables: ['public.*'] } });
    expect(found.status('slot')).toBe('fail');
    expect(found.detail('slot')).toMatch(/is lost[\s\S]*--recopy/);
    expect(found.status('max_slot_wal_keep_size')).toBe('ok');
  });
});

describe('sinks, brokers, port', () => {
  const source = { url: 'postgres://u:p@127.0.0.1:1/db', tables: ['a'], connectTimeoutMs: 1000 };

  test('a file that is none of DuckDB, a folder, a place that cannot be written', async () => {
    const sink = (path: string): ConfigInput => ({ source, sinks: [{ name: 's', type: 'duckdb', path }] });
    const text = await diagnose(sink('a.duckdb'), (dir) => writeFile(join(dir, 'a.duckdb'), 'hello, this is a letter'));
    expect(text.detail('sink s')).toContain('is not a DuckDB file');
    expect((await diagnose(sink('.'))).detail('sink s')).toContain('is not a file');
    expect((await diagnose(sink('waltide.json/a.duckdb'))).detail('sink s')).toContain('is not a folder');
    expect((await diagnose(sink('a.duckdb'), (dir) => writeFile(join(dir, 'a.duckdb'), ''))).status('sink s')).toBe(
      'ok',
    );
  });

  test('a file that another process has open', async () => {
    let holder: ReturnType<typeof spawn> | null = null;
    const found = await diagnose({ source, sinks: [{ name: 's', type: 'duckdb', path: 'a.duckdb' }] }, async (dir) => {
      const script = `const { DuckDBInstance } = await import('@duckdb/node-api'); globalThis.i = await DuckDBInstance.create(${JSON.stringify(join(dir, 'a.duckdb'))}); const c = await i.connect(); await c.run('create table t (a int); checkpoint'); console.log('open'); setInterval(() => {}, 1000)`;
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      await once(child.stdout, 'data');
      holder = child;
    });
    (holder as ReturnType<typeof spawn> | null)?.kill();
    expect(found.status('sink s')).toBe('fail');
    expect(found.detail('sink s')).toContain('is locked');
  });
  test('brokers that are not there, or none', async () => {
    const other = createServer((socket) => socket.destroy()).listen(0, '127.0.0.1');
    await once(other, 'listening');
    const brokers = ['127.0.0.1:1', `127.0.0.1:${(other.address() as AddressInfo).port}`];
    const found = await diagnose({ source, transport: { type: 'kafka', brokers, topicPrefix: 't' } });
    expect(found.status('Kafka')).toBe('fail');
    expect(found.detail('Kafka')).toMatch(/ECONNREFUSED[\s\S]*does not speak Kafka's protocol/);
    other.close();
  });

  test('a metrics port that was chosen and is taken', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    const found = await diagnose({ source, metrics: { port: (taken.address() as AddressInfo).port } });
    expect(found.status('metrics')).toBe('fail');
    taken.close();
  });
});

describe('what stands between', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
    await database.query('create table a (id int primary key)');
  });
  afterAll(() => database.drop());

  const through = async (port: number): Promise<Diagnosis> => {
    const url = new URL(database.url);
    url.port = String(port);
    return diagnose({ source: { url: `${url.href}?sslmode=disable`, slot: database.name, tables: ['public.*'] } });
  };

  test('a pooler, by the key data that it makes up and the settings that it drops', async () => {
    const pooler = await FakePooler.before(database.url);
    const found = await through(pooler.port);
    await pooler.close();
    expect(found.status('direct connection')).toBe('fail');
    expect(found.detail('direct connection')).toContain('PgBouncer');
    expect(found.status('session settings')).toBe('fail');
    expect(found.detail('session settings')).toContain('extra_float_digits');
    expect(found.code).toBe(1);
  });

  test('a load balancer in front of several servers', async () => {
    const other = await startPostgres();
    // The same login works on both, as on the servers of one cluster.
    const password = new URL(database.url).password;
    await query(other.url, `alter role postgres password '${password}'`);
    await query(other.url.replace(/:[^:@/]*@/, `:${password}@`), `create database ${database.name}`);
    const ports = [Number(new URL(database.url).port), other.port];
    let next = 0;
    const balancer = createServer((socket) => {
      const upstream = connect(ports[next++ % 2]!, '127.0.0.1');
      for (const [from, to] of [
        [socket, upstream],
        [upstream, socket],
      ] as const)
        from
          .on('error', () => {})
          .on('close', () => to.destroy())
          .pipe(to);
    }).listen(0, '127.0.0.1');
    await once(balancer, 'listening');
    const found = await through((balancer.address() as AddressInfo).port);
    balancer.close();
    await other.stop('immediate');
    expect(found.status('one server')).toBe('fail');
    expect(found.detail('one server')).toContain('2 different clusters');
  });

  test('generated columns that never arrive', async () => {
    await database.query(
      'create table g (id int primary key, s int generated always as (id * 2) stored, v int generated always as (id * 3) virtual)',
    );
    const found = await diagnose({ source: { url: database.url, slot: database.name, tables: ['public.*'] } });
    expect(found.detail('generated columns')).toMatch(/virtual ones are never replicated: public\.g\.v/);
    expect(found.detail('generated columns')).toMatch(/stored ones are not published: public\.g\.s/);
    expect(found.code).toBe(0);
  });
});

describe('failover', () => {
  let primary: EmbeddedPostgres;
  let standby: Standby;
  beforeAll(async () => {
    primary = await startPostgres();
    standby = await startStandby(primary);
    await query(primary.url, 'create table a (id int primary key)');
  });
  afterAll(() => Promise.all([primary.stop('immediate'), standby.stop()]));

  const both = (): string =>
    `${primary.url.replace(/(127\.0\.0\.1:\d+)/, `$1,127.0.0.1:${standby.server.port}`)}?target_session_attrs=read-write`;

  test('what is missing so that a promotion loses nothing, step by step', async () => {
    const without = await diagnose({ source: { url: primary.url, tables: ['public.*'] } });
    expect(without.detail('failover slot')).toMatch(/a promotion loses it[\s\S]*source\.failover: true/);
    const source = { url: both(), tables: ['public.*'], failover: true };
    const unset = await diagnose({ source });
    expect(unset.status('failover slot')).toBe('ok');
    expect(unset.detail('synchronized_standby_slots')).toContain(`is empty`);
    expect(unset.detail('synchronized_standby_slots')).toContain(STANDBY_SLOT);
    expect(unset.detail('standbys')).toMatch(/sync_replication_slots is off[\s\S]*no copy of slot "waltide"/);
    expect(unset.code).toBe(0);

    await query(primary.url, `alter system set synchronized_standby_slots = 'nobody'`);
    await query(primary.url, 'select pg_reload_conf()');
    await eventually('the setting is read', async () => (await diagnose({ source })).code === 1);
    expect((await diagnose({ source })).detail('synchronized_standby_slots')).toContain('do not exist: nobody');

    await query(primary.url, `alter system set synchronized_standby_slots = '${STANDBY_SLOT}'`);
    await query(primary.url, 'select pg_reload_conf()');
    await eventually('the setting is read', async () => (await diagnose({ source })).code === 0);
    expect((await diagnose({ source })).status('synchronized_standby_slots')).toBe('ok');

    expect((await diagnose({ source: { url: standby.server.url, tables: ['public.*'] } })).status('primary')).toBe(
      'fail',
    );
  });
});
