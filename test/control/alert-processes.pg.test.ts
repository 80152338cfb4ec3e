import { afterEach, beforeEach, expect, it } from 'vitest';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { startWaltide, type WaltideProcess, writeConfig } from '../support/waltide-process.ts';
import { startReceiver } from './alert-support.ts';

let database: TestDatabase;
let receiver: Awaited<ReturnType<typeof startReceiver>>;
let running: WaltideProcess[];
let file: string;
beforeEach(async () => {
  running = [];
  database = await createDatabase();
  await database.query('create table a (id int primary key)');
  receiver = await startReceiver();
  ({ file } = writeConfig({
    source: { url: database.url, slot: database.name, publication: database.name, tables: ['public.*'] },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
    // One that is slow is not gone.
    tracking: { heartbeatIntervalMs: 200, heartbeatTimeoutMs: 60_000 },
    alerts: {
      ...{ intervalMs: 200, resolveAfterMs: 0, retry: { firstMs: 100 } },
      webhooks: [{ name: 'ops', url: receiver.url }],
    },
  }));
});
afterEach(async () => {
  for (const { child, finished } of running) {
    child.kill('SIGKILL');
    await finished;
  }
  await receiver.close();
  await database.drop();
});

async function run(): Promise<WaltideProcess> {
  const process = startWaltide(['run', '--config', file]);
  running.push(process);
  await process.saw(/"streaming"/);
  return process;
}
const of = (rule: string) => receiver.received.map(({ json }) => json).filter(({ data }) => data.rule === rule);
const told = (rule: string): string[] => of(rule).map(({ type }) => type);
const registered = async (count: number): Promise<boolean> =>
  (await database.query('select 1 from waltide.instances')).length === count;

it('a process that is killed is told of by the next start; one that stops in order is not', async () => {
  const first = await run();
  await eventually('it is registered', () => registered(1));
  first.child.kill('SIGTERM');
  expect((await first.finished).code).toBe(0);
  const second = await run();
  await eventually('it is registered', () => registered(2));
  expect(told('instance_gone')).toEqual([]);
  second.child.kill('SIGKILL');
  await second.finished;
  // As if the time were up after which the silent count as gone.
  await database.query(
    `update waltide.instances set expires_at = now() - interval '1 second' where stopped_at is null`,
  );
  await run();
  await eventually('it is told of', () => told('instance_gone').includes('alert.resolved'));
  expect(told('instance_gone')).toEqual(['alert.opened', 'alert.resolved']);
  expect(of('instance_gone')[0].data.summary).toMatch(/gave no sign of life since \S+; \S+ has taken its place$/);
}, 240_000);

it('a slot that is gone is told of, although the process ends by it', async () => {
  const process = await run();
  const drop = `select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '${database.name}'`;
  await eventually('the slot is dropped', async () => {
    await database.query(drop);
    return database.query(`select pg_drop_replication_slot('${database.name}')`).then(
      () => true,
      () => false,
    );
  });
  expect((await process.finished).code).toBe(1);
  expect(told('slot_at_risk')).toEqual(['alert.opened']);
  expect(of('slot_at_risk')[0].data).toMatchObject({
    severity: 'critical',
    summary: expect.stringContaining('is not there any more'),
  });
}, 240_000);
