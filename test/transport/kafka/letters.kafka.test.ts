import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { KafkaConfig } from '../../../src/config/schema.ts';
import type { Letters } from '../../../src/dead-letter/dead-letter.ts';
import type { Shipment } from '../../../src/transport/kafka/produce.ts';
import { ensureSharedKafka } from '../../support/shared-kafka.ts';
import { closedAfterTest, IDENTITY, kafkaConfig, newPrefix, openTransport, relation, Tx } from './harness.ts';
import { kafkaClient, readTopic } from './reader.ts';

/*
 * Goal: a change that has no place in its topic is never passed over before its letter is durable, in the topic and in the store.
 * Method: the letter takes its time, on the way to the broker or in the store, while everything else goes on.
 */
const way = vi.hoisted(() => ({ before: async (_shipments: readonly Shipment[]): Promise<void> => {} }));

vi.mock('../../../src/transport/kafka/produce.ts', async (importOriginal) => {
  const original = await importOriginal<typeof import('../../../src/transport/kafka/produce.ts')>();
  const sendProduce: typeof original.sendProduce = async (connection, shipments, ...more) => {
    await way.before(shipments);
    return original.sendProduce(connection, shipments, ...more);
  };
  return { ...original, sendProduce };
});

let brokers: string[];

beforeAll(async () => {
  brokers = await ensureSharedKafka();
});

afterEach(() => {
  way.before = async () => {};
});

function later(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = (): void => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve: () => resolve() };
}

const orders = relation('orders');
const big = 'x'.repeat(200_000);

async function capture(prefix: string, more: Partial<KafkaConfig>, letters?: Letters) {
  const config = kafkaConfig(brokers, prefix, { oversize: 'dead-letter', ...more });
  const transport = closedAfterTest(openTransport(config, letters && { letters }));
  await transport.openCapture(IDENTITY, null);
  return transport;
}

async function tableTopic(topic: string, bytesMax: number): Promise<void> {
  const admin = kafkaClient(brokers).admin();
  await admin.connect();
  const configEntries = [{ name: 'max.message.bytes', value: String(bytesMax) }];
  await admin.createTopics({ topics: [{ topic, numPartitions: 1, configEntries }] });
  await admin.disconnect();
}

const keys = async (topic: string): Promise<unknown[]> => (await readTopic(brokers, topic)).map(({ key }) => key);
const letterKeys = async (prefix: string): Promise<unknown[]> =>
  (await readTopic(brokers, `${prefix}.dead-letter`)).map(({ value }) => value!.key);

describe.each([false, true])('a letter, exactlyOnce: %s', (exactlyOnce) => {
  it.each([
    ['ours', { maxRecordBytes: 100_000 }, 1_000_000],
    ["the broker's", {}, 50_000],
  ])('is durable before its publish is (the limit is %s)', { timeout: 300_000 }, async (_whose, limits, bytesMax) => {
    const prefix = newPrefix();
    const topic = `${prefix}.public.orders`;
    await tableTopic(topic, bytesMax);
    const transport = await capture(prefix, { exactlyOnce, ...limits });
    const held = later();
    const gate = later();
    way.before = async (shipments) => {
      if (!shipments.some(({ log }) => log.topic.endsWith('.dead-letter'))) return;
      held.resolve();
      await gate.promise;
    };
    // Split, the refused one is in the first half, and what comes behind it is confirmed while it waits.
    const done = transport.publish(new Tx(100n).insert(orders, 1, big).insert(orders, 2).batch()).then(() => 'durable');
    await held.promise;
    expect(await Promise.race([done, sleep(1000, 'waits')])).toBe('waits');
    if (exactlyOnce) expect(await keys(topic)).toEqual([]);
    gate.resolve();
    expect(await done).toBe('durable');
    expect(await letterKeys(prefix)).toEqual(['{"id":1}']);
    expect(await keys(topic)).toEqual(['{"id":2}']);
  });

  it.each([
    ['ours', { maxRecordBytes: 100_000 }, 1_000_000],
    ["the broker's", {}, 50_000],
  ])(
    'is in the store before what lies behind it counts (the limit is %s)',
    {
      timeout: 300_000,
    },
    async (_whose, limits, bytesMax) => {
      const prefix = newPrefix();
      const topic = `${prefix}.public.orders`;
      await tableTopic(topic, bytesMax);
      const asked = later();
      const gate = later();
      const save = async (): Promise<void> => {
        asked.resolve();
        await gate.promise;
      };
      const store: Letters = { perTableMax: 1000, save, open: async () => [], takeBack: async () => {} };
      const transport = await capture(prefix, { exactlyOnce, ...limits }, store);
      await transport.publish(new Tx(100n).insert(orders, 1).batch());
      const late = [
        transport.publish(new Tx(200n).insert(orders, 2, big).insert(orders, 3).batch()),
        transport.publish(new Tx(300n).insert(orders, 4).batch()),
      ];
      await asked.promise;
      await sleep(1000);
      const progress = await readTopic(brokers, `${prefix}.__waltide_progress`);
      expect(progress.at(-1)!.value).toMatchObject({ lsn: '0/84' });
      gate.resolve();
      await Promise.all(late);
      expect(await letterKeys(prefix)).toEqual(['{"id":2}']);
      expect(await keys(topic)).toEqual([1, 3, 4].map((id) => `{"id":${id}}`));
    },
  );
});
