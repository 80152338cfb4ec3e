import { beforeAll, describe, expect, it } from 'vitest';
import type { Transport } from '../../../src/transport/transport.ts';
import { ensureSharedKafka } from '../../support/shared-kafka.ts';
import {
  Collector,
  closedAfterTest,
  IDENTITY,
  kafkaConfig,
  newPrefix,
  openTransport,
  relation,
  Tx,
} from './harness.ts';
import { kafkaClient } from './reader.ts';

let brokers: string[];

beforeAll(async () => {
  brokers = await ensureSharedKafka();
});

async function capture(prefix: string, confirmed: bigint | null = null, partitions = 1): Promise<Transport> {
  const transport = closedAfterTest(openTransport(kafkaConfig(brokers, prefix, { partitions })));
  await transport.openCapture(IDENTITY, confirmed);
  return transport;
}

const orders = relation('orders');
const items = relation('items');
const ORDERS = [{ schema: 'public', table: 'orders' }];

async function replayed(transport: Transport, from: Parameters<Transport['locate']>[1]): Promise<string[]> {
  const all = new Collector(await transport.subscribe('sink', []));
  await all.until(() => all.subscription.appliedLsn() >= all.subscription.publishedLsn());
  await all.subscription.close();
  const { offsets, removed } = await transport.locate(null, from, []);
  expect(removed).toEqual([]);
  const again = new Collector(await transport.subscribe('sink', offsets));
  await again.until(() => again.subscription.appliedLsn() >= again.subscription.publishedLsn());
  await again.subscription.close();
  return again.lines;
}

describe('locate', () => {
  it('finds what was committed at or after an LSN, in every partition', { timeout: 300_000 }, async () => {
    const transport = await capture(newPrefix(), null, 3);
    for (let id = 1; id <= 60; id++) {
      const tx = new Tx(BigInt(id * 100)).insert(orders, id).add('d', orders, null, [String(id), null]);
      if (id % 10 === 0) tx.insert(items, id);
      await transport.publish(tx.batch());
    }
    for (const lsn of [100n, 101n, 3000n, 3001n, 6000n, 9999n]) {
      const lines = await replayed(transport, { lsn });
      const ids = Array.from({ length: 60 }, (_, i) => i + 1).filter((id) => BigInt(id * 100) >= lsn);
      const expected = ids.flatMap((id) => [`c ${id}:x`, `d<${id}`, ...(id % 10 === 0 ? [`c ${id}:x`] : [])]);
      expect(lines.toSorted(), `from ${lsn}`).toEqual(expected.toSorted());
    }
  });

  it('finds it where a crashed capture has published something twice', async () => {
    const prefix = newPrefix();
    const publish = async (transport: Transport, from: number, to: number) => {
      for (let id = from; id <= to; id++) await transport.publish(new Tx(BigInt(id * 100)).insert(orders, id).batch());
    };
    await publish(await capture(prefix), 1, 9);
    const second = await capture(prefix, 432n);
    await publish(second, 5, 15);
    for (let from = 1; from <= 15; from++) {
      const lines = await replayed(second, { lsn: BigInt(from * 100) });
      const expected = Array.from({ length: 16 - from }, (_, i) => `c ${from + i}:x`);
      expect(lines, `from ${from}`).toEqual(expected);
    }
  });

  it('finds a time, with a margin', async () => {
    const transport = await capture(newPrefix());
    const at = (id: number) => new Date(1_700_000_000_000 + id * 60_000);
    for (let id = 1; id <= 9; id++) {
      const tx = new Tx(BigInt(id * 100), { commitTimeUs: BigInt(at(id).getTime()) * 1000n });
      await transport.publish(tx.insert(orders, id).batch());
    }
    expect(await replayed(transport, { time: at(7) })).toEqual(['c 7:x', 'c 8:x', 'c 9:x']);
    expect(await replayed(transport, { time: new Date(at(7).getTime() + 10_000) })).toEqual(['c 8:x', 'c 9:x']);
    expect(await replayed(transport, { time: at(10) })).toEqual([]);
  });

  it('says what retention has removed, and what it has not', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    for (let id = 1; id <= 9; id++) await transport.publish(new Tx(BigInt(id * 100)).insert(orders, id).batch());
    const admin = kafkaClient(brokers).admin();
    await admin.connect();
    await admin.fetchTopicMetadata({ topics: [`${prefix}.public.orders`] });
    await admin.deleteTopicRecords({
      topic: `${prefix}.public.orders`,
      partitions: [{ partition: 0, offset: '4' }],
    });
    await admin.disconnect();
    const partition = `${prefix}.public.orders:0`;
    const gone = await transport.locate(ORDERS, { lsn: 300n }, []);
    expect(gone.removed).toEqual([{ partition, first: { commitLsn: 500n, seq: 1 } }]);
    expect((await transport.locate(ORDERS, { lsn: 501n }, [])).removed).toEqual([]);
    // Nothing that the sink has seen there is as young as what is wanted: what was removed cannot have been either.
    const saved = [{ partition, position: { commitLsn: 200n, seq: 1 }, next: 4n }];
    expect(await transport.locate(ORDERS, { lsn: 300n }, saved)).toEqual({ offsets: [], removed: [] });
  });

  it('refuses a table that was never published', async () => {
    const transport = await capture(newPrefix());
    await expect(transport.locate([{ schema: 'public', table: 'nowhere' }], { lsn: 1n }, [])).rejects.toMatchObject({
      code: 'TOPIC_MISSING',
      message: expect.stringContaining('public.nowhere'),
    });
  });
});
