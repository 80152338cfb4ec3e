import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import type { KafkaConfig } from '../../../src/config/schema.ts';
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
import { readTopic } from './reader.ts';

let brokers: string[];

beforeAll(async () => {
  brokers = await ensureSharedKafka();
});

async function capture(prefix: string, confirmed: bigint | null = null, more: Partial<KafkaConfig> = {}) {
  const transport = closedAfterTest(openTransport(kafkaConfig(brokers, prefix, { exactlyOnce: true, ...more })));
  await transport.openCapture(IDENTITY, confirmed);
  return transport;
}

const orders = relation('orders');
const items = relation('items');

describe('exactlyOnce', () => {
  it('publishes and reads as without it', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix, null, { partitions: 2 });
    const collector = new Collector(await transport.subscribe('sink', []));
    for (let id = 1; id <= 50; id++) {
      const publishing = transport.publish(new Tx(BigInt(id * 100)).insert(orders, id).insert(items, id).batch());
      if (id % 10 === 0) await publishing;
    }
    await transport.publish(keepalive(9000n));
    expect(transport.bytesInFlight).toBe(0);
    await collector.until(() => collector.subscription.appliedLsn() === 9000n);
    expect(collector.lines).toHaveLength(100);
    expect(new Set((await readTopic(brokers, `${prefix}.public.orders`)).map(({ key }) => key)).size).toBe(50);
  });

  it('writes nothing twice: the next capture goes on behind what was committed', { timeout: 300_000 }, async () => {
    const prefix = newPrefix();
    const transactions = { enabled: true };
    const first = await capture(prefix, null, { transactions });
    await first.publish(new Tx(100n).insert(orders, 1).batch());
    // A transaction of which only the beginning has come.
    const long = new Tx(200n).insert(orders, 2).insert(items, 2).add('u', orders, ['3', 'x'], ['2', null]);
    await first.publish({ ...long.batch(), commitEndLsn: null });
    // The slot knows of nothing, and sends all of it again.
    const second = await capture(prefix, 8n, { transactions });
    await second.publish(new Tx(100n).insert(orders, 1).batch());
    await second.publish(long.insert(orders, 4).batch());
    await second.publish(new Tx(300n).insert(orders, 5).batch());
    const records = await readTopic(brokers, `${prefix}.public.orders`);
    const ids = records
      .filter(({ value }) => value)
      .map(({ headers }) => `${headers['waltide.lsn']}#${headers['waltide.seq']}`);
    expect(ids).toEqual(['0/64#1', '0/C8#1', '0/C8#3', '0/C8#3', '0/C8#4', '0/12C#1']);
    const marks = await readTopic(brokers, `${prefix}.transaction`);
    expect(marks.map(({ value }) => [value!.status, value!.id, value!.event_count])).toEqual([
      ...[100, 200, 300].flatMap((lsn, i) => [
        ['BEGIN', `700:${lsn}`, null],
        ['END', `700:${lsn}`, [1, 5, 1][i]],
      ]),
    ]);
  });

  it('shuts out a capture that was there before, and hides what it left open', { timeout: 300_000 }, async () => {
    const prefix = newPrefix();
    const first = await capture(prefix);
    await first.publish(new Tx(100n).insert(orders, 1).batch());
    const second = await capture(prefix, 132n);
    await expect(first.publish(new Tx(200n).insert(orders, 2).batch())).rejects.toMatchObject({
      code: 'TRANSPORT_FENCED',
      message: expect.stringContaining(`waltide.${prefix}.waltide`),
    });
    await second.publish(new Tx(200n).insert(orders, 2).batch());
    const records = await readTopic(brokers, `${prefix}.public.orders`);
    expect(records.map(({ key }) => JSON.parse(key!).id)).toEqual([1, 2]);
  });

  it('may be turned on and off', async () => {
    const prefix = newPrefix();
    await (await capture(prefix, null, { exactlyOnce: false })).publish(new Tx(100n).insert(orders, 1).batch());
    await (await capture(prefix, 132n)).publish(new Tx(200n).insert(orders, 2).batch());
    const third = await capture(prefix, 232n, { exactlyOnce: false });
    await third.publish(new Tx(300n).insert(orders, 3).batch());
    const collector = new Collector(await third.subscribe('sink', []));
    await collector.until(() => collector.subscription.appliedLsn() === 332n);
    expect(collector.lines).toEqual(['c 1:x', 'c 2:x', 'c 3:x']);
  });

  it('keeps large transactions and many publishes within its budget', { timeout: 300_000 }, async () => {
    const transport = await capture(newPrefix(), null, { inFlightBytesMax: 1_000_000 });
    const collector = new Collector(await transport.subscribe('sink', []));
    let most = 0;
    for (let part = 0; part < 40; part++) {
      const tx = new Tx(BigInt(1000 + part));
      for (let i = 0; i < 500; i++) tx.insert(orders, part * 500 + i, 'n'.repeat(100));
      void transport.publish({ ...tx.batch(), commitEndLsn: part === 39 ? 5000n : null });
      while (transport.bytesInFlight > 1_000_000) await sleep(1);
      most = Math.max(most, transport.bytesInFlight);
    }
    expect(most).toBeLessThan(1_200_000);
    await collector.until(() => collector.events.length === 20_000);
    expect(collector.events.map((event) => Number(event.after!.text(0)))).toEqual(
      Array.from({ length: 20_000 }, (_, i) => i),
    );
  });
});
