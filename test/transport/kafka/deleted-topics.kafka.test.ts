import { beforeAll, describe, expect, it } from 'vitest';
import type { KafkaConfig } from '../../../src/config/schema.ts';
import { CapturedTables } from '../../../src/postgres/captured.ts';
import { ensureSharedKafka } from '../../support/shared-kafka.ts';
import {
  Collector,
  closedAfterTest,
  IDENTITY,
  kafkaConfig,
  keepalive,
  newPrefix,
  openTransport,
  relation,
  Tx,
} from './harness.ts';
import { deleteTopics, kafkaClient } from './reader.ts';

let brokers: string[];

beforeAll(async () => {
  brokers = await ensureSharedKafka();
});

const orders = relation('orders', { oid: 1 });
const old = relation('old', { oid: 2 });

function captured(...tables: readonly { oid: number; schema: string; table: string }[]): CapturedTables {
  const set = new CapturedTables();
  for (const { oid, schema, table } of tables)
    set.put({ oid, schema, table, filled: true, membership: null, leftLsn: null });
  return set;
}

const open = (prefix: string, more: Partial<KafkaConfig> = {}) =>
  closedAfterTest(openTransport(kafkaConfig(brokers, prefix, more)));

async function capture(prefix: string, confirmed: bigint | null, tables: CapturedTables) {
  const transport = open(prefix, { transactions: { enabled: true } });
  await transport.openCapture(IDENTITY, confirmed, tables);
  return transport;
}

async function withAdmin<T>(work: (admin: ReturnType<ReturnType<typeof kafkaClient>['admin']>) => Promise<T>) {
  const admin = kafkaClient(brokers).admin();
  await admin.connect();
  return work(admin).finally(() => admin.disconnect());
}

const remove = (...topics: string[]) => deleteTopics(brokers, topics);

describe('a topic that somebody deleted', () => {
  it('is missed by a sink that was away', { timeout: 300_000 }, async () => {
    const prefix = newPrefix();
    const first = await capture(prefix, null, captured(orders, old));
    await first.publish(new Tx(100n).insert(orders, 1).insert(old, 1).batch());
    await remove(`${prefix}.public.old`);
    for (const consistency of ['table', 'transaction'] as const)
      await expect(open(prefix).subscribe('sink', [], { consistency })).rejects.toMatchObject({
        code: 'TOPIC_MISSING',
        message: expect.stringContaining(`${prefix}.public.old`),
        help: expect.stringContaining('--recopy'),
      });
  });

  it('is missed where it tells how far the capture is, at once and at start', { timeout: 300_000 }, async () => {
    const prefix = newPrefix();
    const first = await capture(prefix, null, captured(orders));
    await first.publish(new Tx(100n).insert(orders, 1).batch());
    const transport = open(prefix);
    expect(await transport.identity(AbortSignal.timeout(60_000))).toEqual(IDENTITY);
    const collector = new Collector(await transport.subscribe('sink', []));
    await collector.until(() => collector.events.length === 1);
    await first.close();
    await remove(`${prefix}.__waltide_progress`);
    const missing = { code: 'TOPIC_MISSING', message: expect.stringContaining('__waltide_progress') };
    await expect(collector.until(() => false)).rejects.toMatchObject(missing);
    await expect(open(prefix).identity(AbortSignal.timeout(60_000))).rejects.toMatchObject(missing);
  });

  it('ends nothing where its table is not captured any more', { timeout: 300_000 }, async () => {
    const prefix = newPrefix();
    const tables = captured(orders, old);
    const first = await capture(prefix, null, tables);
    await first.publish(new Tx(100n).insert(orders, 1).insert(old, 1).batch());
    const running = new Collector(await open(prefix).subscribe('sink', []));
    await running.until(() => running.events.length === 2);
    tables.remove(old.oid);
    await first.publish(new Tx(200n).insert(orders, 2).batch());
    await running.until(() => running.events.length === 3);
    await remove(`${prefix}.public.old`);
    // Longer than it takes to call a topic deleted.
    await running.during(9000);
    await first.publish(new Tx(300n).insert(orders, 3).batch());
    await running.until(() => running.subscription.appliedLsn() === 332n);
    expect(running.lines.slice(2)).toEqual(['c 2:x', 'c 3:x']);
    await running.subscription.close();
    await first.close();
    const second = await capture(prefix, 332n, captured(orders));
    await second.publish(new Tx(400n).insert(orders, 4).batch());
    for (const [name, consistency, from, lines] of [
      ['sink', 'transaction', running.saved, ['c 4:x']],
      ['new', 'table', [], ['c 1:x', 'c 2:x', 'c 3:x', 'c 4:x']],
    ] as const) {
      const again = new Collector(await open(prefix).subscribe(name, from, { consistency }));
      await again.until(() => again.subscription.appliedLsn() === 432n);
      expect(again.lines).toEqual(lines);
      await again.subscription.close();
    }
    await second.close();
    // Where the table is to be captured again, sinks would look for its changes behind those that were deleted.
    const third = await capture(prefix, 432n, captured(orders, old)).catch((error: unknown) => error);
    expect(third).toMatchObject({ code: 'TOPIC_MISSING', message: expect.stringContaining(`${prefix}.public.old`) });
    const fourth = await capture(prefix, 432n, captured(orders));
    await expect(fourth.publish(new Tx(500n).insert(old, 2).batch())).rejects.toMatchObject({ code: 'TOPIC_MISSING' });
    const anew = await capture(prefix, null, captured(orders, old));
    await anew.publish(new Tx(900n, true).add('r', old, ['7', 'copied']).batch());
    await anew.publish(keepalive(1000n));
    const after = new Collector(await open(prefix).subscribe('sink', running.saved));
    await after.until(() => after.subscription.appliedLsn() === 1000n);
    expect(after.lines).toContain('r 7:copied');
  });
});

describe('names that Kafka cannot hold', () => {
  const named = (...names: [string, string][]) =>
    captured(...names.map(([schema, table], i) => ({ oid: i + 1, schema, table })));

  it.each([
    ['two tables of one topic', 'TABLES', named(['public', 'a b'], ['public', 'a?b'])],
    ['two topics that differ in "." and "_" alone', 'TABLES', named(['public', 'a.b'], ['public', 'a_b'])],
    ['a name that is too long', 'CONFIG_INVALID', named(['s'.repeat(63), 't'.repeat(63)])],
  ] as const)('are refused before anything is made: %s', async (_what, code, tables) => {
    const prefix = code === 'CONFIG_INVALID' ? `${newPrefix()}${'p'.repeat(140)}` : newPrefix();
    await expect(open(prefix).openCapture(IDENTITY, null, tables)).rejects.toMatchObject({ code });
    const topics = await withAdmin((admin) => admin.listTopics());
    expect(topics.filter((topic) => topic.startsWith(prefix))).toEqual([]);
  });

  it('are two topics for Kafka itself only until the second is made', async () => {
    const prefix = newPrefix();
    const create = (topic: string) => withAdmin((admin) => admin.createTopics({ topics: [{ topic }] }));
    await create(`${prefix}.a.b`);
    await expect(create(`${prefix}.a_b`)).rejects.toThrow();
  });
});
