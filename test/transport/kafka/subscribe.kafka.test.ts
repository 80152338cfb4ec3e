import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import type { KafkaConfig } from '../../../src/config/schema.ts';
import type { Transport } from '../../../src/transport/transport.ts';
import { eventually } from '../../support/pipeline.ts';
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

function transportOf(prefix: string, more: Partial<KafkaConfig> = {}): Transport {
  const transport = closedAfterTest(openTransport(kafkaConfig(brokers, prefix, more)));
  return transport;
}

async function capture(
  prefix: string,
  more: Partial<KafkaConfig> = {},
  confirmed: bigint | null = null,
): Promise<Transport> {
  const transport = transportOf(prefix, more);
  await transport.openCapture(IDENTITY, confirmed);
  return transport;
}

const orders = relation('orders');

describe('a subscription', () => {
  it('gives the events back as they were, a changed key as one update', async () => {
    const transport = await capture(newPrefix());
    const tx = new Tx(100n).insert(orders, 1, 'é "\\\n\u0001').add('u', orders, ['2', undefined], ['1', null]);
    tx.add('d', orders, null, ['2', null]).add('t', orders, null).message('audit', 'x').insert(orders, 3, null);
    await transport.publish(tx.batch());
    const collector = new Collector(await transport.subscribe('sink', []));
    await collector.until(() => collector.events.length === 6);
    const data = collector.events.filter(({ op }) => op !== 'm');
    expect(collector.lines.filter((text) => text.startsWith('m'))).toEqual(['m audit:x']);
    expect(data.map(String)).toEqual(tx.events.filter(({ op }) => op !== 'm').map(String));
    expect(collector.lines.filter((text) => !text.startsWith('m'))).toEqual([
      'c 1:é "\\\n\u0001',
      'u 2:?<1',
      'd<2',
      't orders',
      'c 3:NULL',
    ]);
    const [first, second] = data;
    expect(first!.transaction).toEqual(tx.transaction);
    expect(second!.transaction).toBe(first!.transaction);
    expect(first!.relation).toEqual(orders);
    expect([first!.tableSeq, first!.lsn]).toEqual([1, 92n]);
  });

  it('goes on where the sink is, not where the group is', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    await transport.publish(new Tx(100n).insert(orders, 1).insert(orders, 2).batch());
    const first = new Collector(await transport.subscribe('sink', []));
    await first.until(() => first.events.length === 2);
    await first.subscription.close();
    await transport.publish(new Tx(200n).insert(orders, 3).batch());
    const second = new Collector(await transport.subscribe('sink', first.saved));
    await second.until(() => second.events.length === 1);
    expect(second.lines).toEqual(['c 3:x']);
    await second.subscription.close();
    const anew = new Collector(await transport.subscribe('sink', []));
    await anew.until(() => anew.events.length === 3);
    expect(anew.lines).toEqual(['c 1:x', 'c 2:x', 'c 3:x']);
  });

  it('is independent of other sinks', async () => {
    const transport = await capture(newPrefix());
    await transport.publish(new Tx(100n).insert(orders, 1).batch());
    const one = new Collector(await transport.subscribe('one', []));
    const two = new Collector(await transport.subscribe('two', []));
    await one.until(() => one.events.length === 1);
    await transport.publish(new Tx(200n).insert(orders, 2).batch());
    await two.until(() => two.events.length === 2);
    expect(two.lines).toEqual(['c 1:x', 'c 2:x']);
    expect(two.subscription.appliedLsn()).toBeGreaterThanOrEqual(132n);
    expect(one.subscription.appliedLsn()).toBeLessThanOrEqual(132n);
  });

  it('skips what a capture published again after a crash', async () => {
    const prefix = newPrefix();
    const first = await capture(prefix);
    const change = (tx: Tx) => tx.insert(orders, 1).add('u', orders, ['2', undefined], ['1', null]).insert(orders, 5);
    await first.publish(new Tx(50n).insert(orders, 9).batch());
    await first.publish(change(new Tx(100n)).batch());
    // The slot knows only of the first transaction.
    const second = await capture(prefix, {}, 82n);
    const collector = new Collector(await second.subscribe('sink', []));
    await collector.until(() => collector.events.length === 4);
    await second.publish(change(new Tx(100n)).batch());
    await second.publish(new Tx(200n).insert(orders, 3).batch());
    await collector.until(() => collector.events.length === 5);
    await collector.during(200);
    const expected = ['c 9:x', 'c 1:x', 'u 2:?<1', 'c 5:x', 'c 3:x'];
    expect(collector.lines).toEqual(expected);
    const anew = new Collector(await second.subscribe('other', []));
    await anew.until(() => anew.lines.includes('c 3:x'));
    expect(anew.lines).toEqual(expected);
  });

  it('picks up tables that appear later', async () => {
    const transport = await capture(newPrefix());
    const collector = new Collector(await transport.subscribe('sink', []));
    await transport.publish(new Tx(100n).insert(orders, 1).batch());
    await collector.until(() => collector.events.length === 1);
    await transport.publish(new Tx(200n).insert(relation('items'), 7).insert(orders, 2).batch());
    await collector.until(() => collector.events.length === 3);
    expect(collector.lines.sort()).toEqual(['c 1:x', 'c 2:x', 'c 7:x']);
    await collector.until(() => collector.subscription.appliedLsn() === 232n);
  });

  it('knows each version of a table by its own description', async () => {
    const transport = await capture(newPrefix());
    const collector = new Collector(await transport.subscribe('sink', []));
    const wider = relation('orders', { columns: [...orders.columns, { ...orders.columns[1]!, name: 'extra' }] });
    await transport.publish(new Tx(100n).insert(orders, 1).batch());
    await collector.until(() => collector.events.length === 1);
    await transport.publish(new Tx(200n).add('c', wider, ['2', 'x', 'y']).insert(orders, 3).batch());
    await collector.until(() => collector.events.length === 3);
    expect(collector.events.map((event) => event.relation!.columns.length)).toEqual([2, 3, 2]);
    expect(collector.events[1]!.after!.text(2)).toBe('y');
  });

  it('rejects with the reason of the signal', async () => {
    const transport = await capture(newPrefix());
    const subscription = await transport.subscribe('sink', []);
    const controller = new AbortController();
    const receiving = subscription.receive(controller.signal);
    const reason = new Error('enough');
    controller.abort(reason);
    await expect(receiving).rejects.toBe(reason);
  });
});

describe('progress', () => {
  it('reaches everything published, with idle tables and keepalives', async () => {
    const transport = await capture(newPrefix());
    await transport.publish(
      new Tx(100n).insert(orders, 1).insert(relation('idle'), 1).add('d', orders, null, ['1', null]).batch(),
    );
    const collector = new Collector(await transport.subscribe('sink', []));
    expect(collector.subscription.appliedLsn()).toBe(0n);
    await collector.until(() => collector.subscription.appliedLsn() === 132n);
    await transport.publish(new Tx(200n).insert(orders, 2).batch());
    await collector.until(() => collector.subscription.appliedLsn() === 232n);
    await transport.publish(keepalive(5000n));
    await collector.until(() => collector.subscription.appliedLsn() === 5000n);
    // A sink that starts where it stopped is caught up without receiving anything.
    await collector.subscription.close();
    const again = await transport.subscribe('sink', collector.saved);
    expect(again.appliedLsn()).toBe(5000n);
  });

  it('does not run ahead of what is applied', async () => {
    const transport = await capture(newPrefix());
    await transport.publish(new Tx(100n).insert(orders, 1).batch());
    const subscription = await transport.subscribe('sink', []);
    const delivery = await subscription.receive(AbortSignal.timeout(60_000));
    await eventually('it knows how far the capture is', () => subscription.publishedLsn() === 132n);
    expect(subscription.appliedLsn()).toBe(0n);
    subscription.applied(delivery);
    expect(subscription.appliedLsn()).toBe(132n);
  });
});

describe('partitions', () => {
  it('keep the order of every key, and a truncate waits for all of them', async () => {
    const transport = await capture(newPrefix(), { partitions: 4 });
    const tx = new Tx(100n);
    for (let id = 0; id < 200; id++) tx.insert(orders, id % 50, String(id));
    tx.add('t', orders, null);
    for (let id = 0; id < 50; id++) tx.insert(orders, id, 'after');
    await transport.publish(tx.batch());
    await transport.publish(
      new Tx(200n).add('t', orders, null).add('t', orders, null).insert(orders, 7, 'last').batch(),
    );
    const collector = new Collector(await transport.subscribe('sink', []));
    await collector.until(() => collector.lines.includes('c 7:last'));
    const truncate = collector.lines.indexOf('t orders');
    expect(collector.lines.filter((text) => text === 't orders')).toHaveLength(3);
    const before = collector.lines.slice(0, truncate);
    expect(before).toHaveLength(200);
    for (let id = 0; id < 50; id++) {
      const notes = before.filter((text) => text.startsWith(`c ${id}:`)).map((text) => Number(text.split(':')[1]));
      expect(notes).toEqual([id, id + 50, id + 100, id + 150]);
    }
    expect(collector.lines.slice(truncate + 1, truncate + 51).every((text) => text.endsWith(':after'))).toBe(true);
    await collector.until(() => collector.subscription.appliedLsn() === 232n);
    const again = new Collector(await transport.subscribe('sink', collector.saved));
    await again.during(500);
    expect(again.lines).toEqual([]);
  });

  it('may part a changed key: then it is a delete and a create', async () => {
    const transport = await capture(newPrefix(), { partitions: 4 });
    const tx = new Tx(100n);
    for (let id = 0; id < 30; id++) tx.add('u', orders, [String(id + 1000), 'new'], [String(id), null]);
    await transport.publish(tx.batch());
    const collector = new Collector(await transport.subscribe('sink', []));
    await collector.until(() => collector.subscription.appliedLsn() === 132n);
    for (let id = 0; id < 30; id++) {
      const merged = collector.lines.includes(`u ${id + 1000}:new<${id}`);
      const parted = collector.lines.includes(`d<${id}`) && collector.lines.includes(`c ${id + 1000}:new`);
      expect(merged !== parted, `key ${id}`).toBe(true);
    }
  });
});

describe('offsets that the log does not have', () => {
  const remove = async (topic: string, offset: string) => {
    const admin = kafkaClient(brokers).admin();
    await admin.connect();
    await admin.fetchTopicMetadata({ topics: [topic] });
    await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset }] });
    await admin.disconnect();
  };

  it('are an error where retention passed the sink; a new sink begins at the end, and says so', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    await transport.publish(new Tx(100n).insert(orders, 1).batch());
    const collector = new Collector(await transport.subscribe('sink', []));
    await collector.until(() => collector.events.length === 1);
    await collector.subscription.close();
    await transport.publish(new Tx(200n).insert(orders, 2).insert(orders, 3).batch());
    await remove(`${prefix}.public.orders`, '2');
    await expect(transport.subscribe('sink', collector.saved)).rejects.toMatchObject({ code: 'OFFSET_OUT_OF_RANGE' });
    const empty = new Collector(await transport.subscribe('new', []));
    expect(empty.subscription.startsEmpty).toBe(true);
    await empty.until(() => empty.saved.length > 0);
    expect(empty.lines).toEqual([]);
    await transport.publish(new Tx(300n).insert(orders, 4).batch());
    await empty.until(() => empty.events.length === 1);
    expect(empty.lines).toEqual(['c 4:x']);
    await empty.subscription.close();
    const again = await transport.subscribe('new', empty.saved);
    expect(again.startsEmpty).toBe(false);
  });

  it('are an error where the topic was created again', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    await transport.publish(new Tx(100n).insert(orders, 1).batch());
    const from = [{ partition: `${prefix}.public.orders:0`, position: { commitLsn: 500n, seq: 1 }, next: 40n }];
    await expect(transport.subscribe('sink', from)).rejects.toMatchObject({
      code: 'OFFSET_OUT_OF_RANGE',
      message: /created again/,
    });
  });

  it('do not matter below the newest copy, where a new sink begins', async () => {
    const prefix = newPrefix();
    const first = await capture(prefix);
    await first.publish(new Tx(100n).insert(orders, 1).insert(orders, 2).batch());
    await remove(`${prefix}.public.orders`, '1');
    const second = await capture(prefix);
    await second.publish(new Tx(900n, true).add('r', orders, ['2', 'copied']).batch());
    const collector = new Collector(await second.subscribe('new', []));
    await collector.until(() => collector.events.length === 1);
    expect(collector.lines).toEqual(['r 2:copied']);
    await collector.until(() => collector.subscription.appliedLsn() === 932n);
  });
});

describe('a topic that is deleted while it is read', () => {
  it('is an error of receive, in time', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    await transport.publish(new Tx(100n).insert(orders, 1).batch());
    const collector = new Collector(await transport.subscribe('sink', []));
    await collector.until(() => collector.events.length === 1);
    await deleteTopics(brokers, [`${prefix}.public.orders`]);
    await expect(collector.until(() => false)).rejects.toMatchObject({
      code: 'TOPIC_MISSING',
      message: expect.stringContaining(`${prefix}.public.orders`),
    });
  });
});

describe('a group', () => {
  it('refuses a second store under the same name, and leaves the first one alone', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    await transport.publish(new Tx(100n).insert(orders, 1).batch());
    const first = new Collector(await transportOf(prefix).subscribe('sink', [], { instance: 'one' }));
    await first.until(() => first.events.length === 1);
    await expect(transportOf(prefix).subscribe('sink', [], { instance: 'two' })).rejects.toMatchObject({
      code: 'SINK_LOCKED',
      message: expect.stringContaining('"sink"'),
    });
    await transport.publish(new Tx(200n).insert(orders, 2).batch());
    await first.until(() => first.events.length === 2);
  });

  it('shares tables among its members, and nothing is repeated or lost when they come and go', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    const tables = ['a', 'b', 'c', 'd'].map((name) => relation(name));
    const publish = (lsn: bigint, id: number) => {
      const tx = new Tx(lsn);
      for (const table of tables) tx.insert(table, id);
      return transport.publish(tx.batch());
    };
    await publish(100n, 0);
    const seen: string[] = [];
    const saved = new Map<string, Collector['saved'][number]>();
    const stop = new AbortController();
    const run = async (subscription: Awaited<ReturnType<Transport['subscribe']>>, signal: AbortSignal) => {
      while (!signal.aborted) {
        const delivery = await subscription.receive(signal).catch((error: unknown) => {
          if (signal.aborted) return null;
          throw error;
        });
        if (!delivery) return;
        await sleep(15);
        for (const event of delivery.events) seen.push(`${event.relation!.table} ${event.after!.text(0)}`);
        for (const offset of delivery.offsets) saved.set(offset.partition, offset);
        subscription.applied(delivery);
      }
    };
    const one = await transportOf(prefix).subscribe('shared', []);
    const running = [run(one, stop.signal)];
    for (let id = 1; id < 20; id++) await publish(BigInt(1000 * id), id);
    const opening = transportOf(prefix).subscribe('shared', [...saved.values()]);
    for (let id = 20; id < 60; id++) await publish(BigInt(1000 * id), id);
    const two = await opening;
    const stopTwo = new AbortController();
    running.push(run(two, stopTwo.signal));
    for (let id = 60; id < 100; id++) {
      await publish(BigInt(1000 * id), id);
      await sleep(20);
    }
    stopTwo.abort();
    await running[1];
    stop.abort();
    await running[0];
    await two.close();
    await one.close();
    const three = await transportOf(prefix).subscribe('shared', [...saved.values()]);
    const last = new AbortController();
    const ending = run(three, last.signal);
    await eventually('everything has come', () => seen.length >= 400);
    last.abort();
    await ending;
    expect(seen).toHaveLength(400);
    expect(new Set(seen).size).toBe(400);
    for (const { table } of tables) {
      const ids = seen.filter((text) => text.startsWith(`${table} `)).map((text) => Number(text.split(' ')[1]));
      expect(ids).toEqual(Array.from({ length: 100 }, (_, i) => i));
    }
  });
});
