import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { Transport } from '../../../src/transport/transport.ts';
import { type KafkaServer, startKafka } from '../../support/kafka-server.ts';
import { closedAfterTest, IDENTITY, kafkaConfig, newPrefix, openTransport, relation, Tx } from './harness.ts';
import { kafkaClient, readTopic } from './reader.ts';

/*
 * Goal: whatever becomes of a Kafka transaction that is open, a reader of committed records sees every change exactly
 * once. Method: a real broker (4.3: transactions of version 2) that is killed, or that gives up on transactions after
 * 2 s while our commit is held back; only the time that we ask for and when we commit is tampered with.
 */
const tamper = vi.hoisted(() => ({ timeoutMs: 0, hold: null as Promise<unknown> | null, held: 0 }));

vi.mock('@platformatic/kafka', async (importOriginal) => {
  const original = await importOriginal<typeof import('@platformatic/kafka')>();
  type Args = unknown[];
  const init = original.initProducerIdV4.api.async as (...args: Args) => Promise<unknown>;
  const end = original.endTxnV3.api.async as (...args: Args) => Promise<unknown>;
  const async = (work: (...args: Args) => Promise<unknown>) => ({ api: { async: work } });
  return {
    ...original,
    initProducerIdV4: async((connection, id, timeoutMs, ...rest) =>
      init(connection, id, tamper.timeoutMs || timeoutMs, ...rest),
    ),
    endTxnV3: async(async (...args) => {
      if (tamper.hold) {
        tamper.held++;
        const { hold } = tamper;
        tamper.hold = null;
        await hold;
      }
      return end(...args);
    }),
  };
});

let kafka: KafkaServer;
const orders = relation('orders');
const items = relation('items');

beforeAll(async () => {
  kafka = await startKafka({ settings: { 'transaction.abort.timed.out.transaction.cleanup.interval.ms': '300' } });
}, 300_000);
afterAll(() => kafka?.stop());
afterEach(() => {
  Object.assign(tamper, { timeoutMs: 0, hold: null, held: 0 });
});

async function capture(prefix: string, confirmed: bigint | null = null): Promise<Transport> {
  const config = kafkaConfig(kafka.brokers, prefix, { exactlyOnce: true, requestTimeoutMs: 5000 });
  const transport = closedAfterTest(openTransport(config));
  await transport.openCapture(IDENTITY, confirmed);
  return transport;
}

/** Publishes transactions over both tables until `stop`; resolves with how many, once all are durable. */
async function publishUntil(transport: Transport, stop: AbortSignal): Promise<number> {
  let last: Promise<void> = Promise.resolve();
  let id = 0;
  while (!stop.aborted) {
    id++;
    last = transport.publish(new Tx(BigInt(1000 * id)).insert(orders, id).insert(items, id).batch());
    await sleep(5);
    while (transport.bytesInFlight > 100_000 && !stop.aborted) await sleep(5);
  }
  await last;
  return id;
}

async function expectAllOnce(prefix: string, count: number): Promise<void> {
  for (const table of ['orders', 'items']) {
    const records = await readTopic(kafka.brokers, `${prefix}.public.${table}`);
    expect(records.map(({ value }) => (value!.after as { id: number }).id)).toEqual(
      Array.from({ length: count }, (_, i) => i + 1),
    );
  }
}

describe('a Kafka transaction that is open', () => {
  it('is written again where the broker is killed within it', { timeout: 300_000 }, async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    const stop = new AbortController();
    const publishing = publishUntil(transport, stop.signal);
    for (let round = 0; round < 3; round++) {
      await sleep(800 + 333 * round);
      kafka.kill();
      await kafka.restart();
    }
    await sleep(1500);
    stop.abort();
    await expectAllOnce(prefix, await publishing);
  });

  it('is written again where the broker has given it up', { timeout: 300_000 }, async () => {
    const prefix = newPrefix();
    tamper.timeoutMs = 2000;
    const transport = await capture(prefix);
    const stop = new AbortController();
    const publishing = publishUntil(transport, stop.signal);
    for (let round = 1; round <= 2; round++) {
      await sleep(500);
      let release = (): void => {};
      tamper.hold = new Promise<void>((resolve) => (release = resolve));
      while (tamper.held < round) await sleep(50);
      await sleep(5000);
      release();
      await sleep(500);
    }
    stop.abort();
    await expectAllOnce(prefix, await publishing);
  });

  it('ends the capture with a clear error where another producer has taken its id', { timeout: 300_000 }, async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    await transport.publish(new Tx(1000n).insert(orders, 1).insert(items, 1).batch());
    let release = (): void => {};
    tamper.hold = new Promise<void>((resolve) => (release = resolve));
    const open = transport.publish(new Tx(2000n).insert(orders, 2).insert(items, 2).batch());
    open.catch(() => {});
    while (tamper.held < 1) await sleep(20);
    const thief = kafkaClient(kafka.brokers).producer({
      transactionalId: `waltide.${prefix}.waltide`,
      idempotent: true,
      maxInFlightRequests: 1,
    });
    await thief.connect();
    await (await thief.transaction()).abort();
    await thief.disconnect();
    release();
    await expect(open).rejects.toMatchObject({ code: 'TRANSPORT_FENCED', message: expect.stringContaining(prefix) });
    // The next one takes it back, and goes on behind what was committed.
    const second = await capture(prefix, 1032n);
    await second.publish(new Tx(2000n).insert(orders, 2).insert(items, 2).batch());
    await expectAllOnce(prefix, 2);
  });
});
