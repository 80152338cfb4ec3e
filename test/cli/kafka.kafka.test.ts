import { copyFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { ConfigInput } from '../../src/config/schema.ts';
import { type KafkaServer, startKafka } from '../support/kafka-server.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { startWaltide, type WaltideProcess, waltide, writeConfig } from '../support/waltide-process.ts';

let kafka: KafkaServer;
let database: TestDatabase;
const started: WaltideProcess[] = [];

beforeAll(async () => {
  kafka = await startKafka();
}, 300_000);
afterAll(() => kafka?.stop());
beforeEach(async () => {
  database = await createDatabase();
  await database.query('create table t (id int primary key); insert into t values (1), (2)');
});
afterEach(async () => {
  for (const { child, finished } of started.splice(0)) {
    child.kill('SIGKILL');
    await finished;
  }
  await database.drop();
});

function configured(transport: object = {}, more: Partial<ConfigInput> = {}): { folder: string; file: string } {
  return writeConfig({
    source: {
      url: database.url,
      slot: database.name,
      publication: database.name,
      tables: ['public.*'],
      heartbeatIntervalMs: 500,
    },
    transport: { type: 'kafka', brokers: kafka.brokers, topicPrefix: database.name, ...transport },
    sinks: [{ name: 'copy', type: 'duckdb', path: 'copy.duckdb' }],
    ...more,
  } as ConfigInput);
}

function run(role: string, file: string): WaltideProcess {
  const process = startWaltide(['run', '--role', role, '--config', file]);
  started.push(process);
  return process;
}

const once = (role: string, file: string) => waltide(['run', '--role', role, '--until-caught-up', '--config', file]);

const slots = async (): Promise<number> =>
  (await database.query('select 1 from pg_replication_slots where slot_name = $1', [database.name])).length;

describe('a second store under the name of a sink', () => {
  it.each(['another file', 'a copy of the file'])(
    'is refused while the first is in use: %s',
    async (which) => {
      const { folder, file } = configured();
      expect((await once('capture', file)).code).toBe(0);
      expect((await once('apply', file)).code).toBe(0);
      const other = configured();
      if (which === 'a copy of the file')
        await copyFile(join(folder, 'copy.duckdb'), join(other.folder, 'copy.duckdb'));
      const capture = run('capture', file);
      await capture.saw(/streaming/);
      const first = run('apply', file);
      // The file alone has two rows already; a third tells that the process is up.
      await database.query('insert into t values (3)');
      await eventuallyApplied(file, 3);
      const second = await once('apply', other.file);
      expect(second.code).toBe(1);
      expect(second.stderr).toContain('sink "copy"');
      expect(second.stderr).toMatch(/name of its own/);
      expect(second.stderr).not.toMatch(/^ +at /m);
      expect(first.child.exitCode).toBeNull();
      await database.query('insert into t values (4)');
      await eventuallyApplied(file, 4);
      // The same store goes on at once after a crash, though its place in the group is not free yet.
      first.child.kill('SIGKILL');
      await first.finished;
      const again = await once('apply', file);
      expect(again.code, again.stderr).toBe(0);
    },
    300_000,
  );
});

/** Waits until the running process of that file answers with so many rows. */
function eventuallyApplied(file: string, rows: number): Promise<void> {
  return eventually(`${rows} rows`, async () => {
    const { code, stdout } = await waltide(['query', 'select count(*)::int as n from t', '--json', '--config', file]);
    return code === 0 && new RegExp(`\\b${rows}\\b`).test(stdout);
  });
}

describe('SIGTERM while no broker answers', () => {
  // Without the mend it takes the whole of this, and the code is 1.
  const shutdownTimeoutMs = 60_000;

  it.each(['capture', 'apply', 'all'])(
    'ends at once, in order, and nothing is lost: %s',
    async (role) => {
      const { file } = configured({}, { shutdownTimeoutMs });
      for (const each of ['capture', 'apply']) expect((await once(each, file)).code).toBe(0);
      const capture = role === 'apply' ? run('capture', file) : null;
      await capture?.saw(/streaming/);
      const process = run(role, file);
      if (role !== 'apply') await process.saw(/streaming/);
      // The file alone has two rows already; a third tells that the process is up.
      await database.query('insert into t values (3)');
      if (role !== 'capture') await eventuallyApplied(file, 3);
      kafka.kill();
      await database.query('insert into t select generate_series(10, 1000)');
      // Reading may fail first, while nothing has been sent that could come again.
      await process.saw(role === 'apply' ? /trying again/ : /sending failed, trying again/);
      process.child.kill('SIGTERM');
      const { code, stderr } = await process.finished;
      expect(code, stderr).toBe(0);
      expect(stderr).not.toContain('draining was not finished');
      if (role !== 'apply') expect(stderr).toContain('comes again at the next start');
      capture?.child.kill('SIGKILL');
      await capture?.finished;
      await kafka.restart();
      for (const each of ['capture', 'apply']) expect((await once(each, file)).code).toBe(0);
      const { stdout } = await waltide(['query', 'select count(*)::int as n from t', '--json', '--config', file]);
      expect(stdout).toMatch(/\b994\b/);
    },
    300_000,
  );

  it.each(['capture', 'apply'])(
    'ends what has not found one yet: %s',
    async (role) => {
      const deaf = createServer(() => {});
      await new Promise<void>((resolve) => deaf.listen(0, '127.0.0.1', resolve));
      const { port } = deaf.address() as { port: number };
      const { file } = configured({ brokers: [`127.0.0.1:${port}`], connectTimeoutMs: 60_000 });
      const process = run(role, file);
      await new Promise<void>((resolve) => deaf.once('connection', () => resolve()));
      process.child.kill('SIGTERM');
      const { code, stderr } = await process.finished;
      expect(code, stderr).toBe(0);
      expect(stderr).not.toMatch(/No Kafka broker/);
      deaf.close();
    },
    300_000,
  );
});

describe('tables that cannot have a topic of their own', () => {
  it('are refused by doctor, and at start before a slot is made', async () => {
    await database.query('create table "a.b" (id int primary key); create table a_b (id int primary key)');
    const { file } = configured();
    const doctor = await waltide(['doctor', '--config', file]);
    expect(doctor.code).toBe(1);
    expect(doctor.stdout).toMatch(/fail +topics .*a_b.*share the topic/);
    const { code, stderr } = await once('capture', file);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/share the topic/);
    expect(await slots()).toBe(0);
    await database.query('drop table "a.b"');
    const long = configured({ topicPrefix: 'p'.repeat(248) });
    expect((await waltide(['doctor', '--config', long.file])).stdout).toMatch(/fail +topics .*Kafka allows 249/);
    expect((await once('capture', long.file)).stderr).toMatch(/Kafka allows 249/);
    expect(await slots()).toBe(0);
  }, 300_000);
});
