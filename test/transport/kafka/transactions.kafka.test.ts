import { beforeAll, describe, expect, it } from 'vitest';
import type { KafkaConfig } from '../../../src/config/schema.ts';
import type { Delivery } from '../../../src/event/batch.ts';
import { SNAPSHOT_MESSAGE } from '../../../src/event/change-event.ts';
import type { Offset } from '../../../src/event/offset.ts';
import type { Subscription, Transport } from '../../../src/transport/transport.ts';
import { Random } from '../../support/random.ts';
import { ensureSharedKafka } from '../../support/shared-kafka.ts';
import {
  closedAfterTest,
  IDENTITY,
  kafkaConfig,
  keepalive,
  line,
  newPrefix,
  openTransport,
  relation,
  Tx,
} from './harness.ts';
import { kafkaClient, readTopic } from './reader.ts';

let brokers: string[];

beforeAll(async () => {
  brokers = await ensureSharedKafka();
});

async function capture(prefix: string, more: Partial<KafkaConfig> = {}, confirmed: bigint | null = null) {
  const transport = closedAfterTest(
    openTransport(kafkaConfig(brokers, prefix, { partitions: 3, transactions: { enabled: true }, ...more })),
  );
  await transport.openCapture(IDENTITY, confirmed);
  return transport;
}

const tables = ['a', 'b', 'c'].map((name) => relation(name));
const [a, b] = tables as [(typeof tables)[0], (typeof tables)[0]];

/** Receives until everything published is applied; `each` sees every delivery. */
async function drain(subscription: Subscription, each: (delivery: Delivery) => void): Promise<void> {
  const signal = AbortSignal.timeout(60_000);
  while (subscription.appliedLsn() < subscription.publishedLsn() || subscription.publishedLsn() === 0n) {
    const delivery = await subscription.receive(AbortSignal.any([signal, AbortSignal.timeout(300)])).catch((error) => {
      if (error.name === 'TimeoutError' && !signal.aborted) return null;
      throw error;
    });
    if (!delivery) continue;
    each(delivery);
    if (delivery.complete) subscription.applied(delivery);
    else subscription.taken(delivery);
  }
}

/** What a transactional sink would hold: only whole transactions, and the offsets that came with them. */
class Store {
  lines: string[] = [];
  readonly offsets = new Map<string, Offset>();
  parts = 0;
  #pending: { lines: string[]; deliveries: Delivery[] } = { lines: [], deliveries: [] };

  async read(transport: Transport, until = Number.POSITIVE_INFINITY): Promise<void> {
    const subscription = await transport.subscribe('sink', [...this.offsets.values()], { consistency: 'transaction' });
    let deliveries = 0;
    this.#pending = { lines: [], deliveries: [] };
    try {
      await drain(subscription, (delivery) => {
        if (++deliveries > until) throw new Error('killed');
        this.#take(subscription, delivery);
      });
    } catch (error) {
      if ((error as Error).message !== 'killed') throw error;
    } finally {
      await subscription.close();
    }
  }

  #take(subscription: Subscription, delivery: Delivery): void {
    const { lines, deliveries } = this.#pending;
    for (const event of delivery.events) lines.push(`${event.relation?.table ?? ''} ${line(event)}`);
    if (!delivery.complete) {
      expect(delivery.offsets).toEqual([]);
      deliveries.push(delivery);
      this.parts++;
      return;
    }
    this.lines.push(...lines);
    for (const offset of delivery.offsets) this.offsets.set(offset.partition, offset);
    for (const part of deliveries) subscription.applied(part);
    this.#pending = { lines: [], deliveries: [] };
  }
}

describe('the transaction topic', () => {
  it('says in Debezium’s form where transactions begin and end, and how much they hold', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    const tx = new Tx(0x100n).insert(a, 1).insert(b, 2).add('u', a, ['5', 'new'], ['1', null]).message('x', 'y');
    tx.add('d', b, null, ['2', null]).add('t', b, null);
    await transport.publish(new Tx(0x80n, true).add('r', a, ['9', 'copied']).batch());
    await transport.publish({ ...new Tx(0x200n).message('only', 'a message').batch() });
    // A transaction that comes in two batches, of which the second brings nothing but its end.
    await transport.publish({ ...tx.batch(), commitEndLsn: null });
    await transport.publish(keepalive(0x300n));
    const records = await readTopic(brokers, `${prefix}.transaction`);
    const id = `700:${0x100}`;
    const ts_ms = 1_700_000_000_123;
    expect(records.map(({ key }) => JSON.parse(key!))).toEqual([{ id }, { id }]);
    expect(records.map(({ value }) => value)).toEqual([
      { status: 'BEGIN', id, event_count: null, data_collections: null, ts_ms },
      {
        status: 'END',
        id,
        // A changed key is two records, a truncate one in each of three partitions.
        event_count: 8,
        data_collections: [
          { data_collection: 'public.a', event_count: 3 },
          { data_collection: 'public.b', event_count: 5 },
        ],
        ts_ms,
      },
    ]);
    expect(records.map(({ headers }) => [headers['waltide.lsn'], headers['waltide.seq']])).toEqual([
      ['0/100', '0'],
      ['0/100', '6'],
    ]);
    const data = await readTopic(brokers, `${prefix}.public.a`);
    const counted = data.filter(({ value }) => (value?.transaction as { id?: string } | null)?.id === id);
    expect(counted).toHaveLength(3);
  });
});

describe('consistency: transaction', () => {
  it('gives whole transactions in commit order, whatever crashes between', { timeout: 300_000 }, async () => {
    const seed = Number(process.env.WALTIDE_SEED ?? Date.now() % 100_000);
    console.info(`seed ${seed}`);
    const random = new Random(seed);
    const prefix = newPrefix();
    const all: Tx[] = [];
    const store = new Store();
    let transport = await capture(prefix, { partitions: 1 + random.int(4) });
    await transport.publish(new Tx(15n, true).add('t', a, null).add('r', a, ['1', 'copied']).batch());
    for (let round = 0; round < 6; round++) {
      for (let i = 0; i < 40; i++) {
        const tx = new Tx(BigInt(1000 * (all.length + 1)));
        for (let n = 1 + random.int(6); n > 0; n--) change(random, tx);
        all.push(tx);
        void transport.publish(tx.batch()).catch(() => {});
        if (random.int(10) === 0) void transport.publish(keepalive(BigInt(1000 * all.length + 500))).catch(() => {});
      }
      if (random.int(2) === 0) await store.read(transport, 1 + random.int(4));
      // Killed: what was not durable is gone, and all that the slot was not told of comes again.
      await transport.close();
      const from = Math.max(0, all.length - 1 - random.int(30));
      transport = await capture(prefix, {}, from === 0 ? 47n : BigInt(1000 * from + 32));
      for (const tx of all.slice(from)) await transport.publish(tx.batch());
    }
    await store.read(transport);
    const expected = ['a t a', 'a r 1:copied'];
    for (const tx of all)
      for (const event of tx.events) {
        const text = `${event.relation?.table ?? ''} ${line(event)}`;
        // Parted over two partitions, a changed key is a delete and a create.
        const parted = event.op === 'u' && event.before && !store.lines.includes(text);
        if (parted)
          expected.push(`${event.relation!.table} d<${event.before!.text(0)}`, text.replace(/ u (.*)<.*/, ' c $1'));
        else expected.push(text);
      }
    expect(store.lines).toEqual(expected);
  });

  it('hands a transaction larger than memory on in parts', { timeout: 300_000 }, async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix, { partitions: 2, inFlightBytesMax: 3_000_000 });
    const note = 'n'.repeat(1000);
    await transport.publish(new Tx(1000n).insert(a, 0).insert(b, 0).batch());
    for (let part = 0; part < 10; part++) {
      const tx = new Tx(2000n);
      for (let i = 0; i < 2000; i++) tx.insert(i % 2 ? a : b, part * 2000 + i + 1, note);
      const events = tx.events.map((event) => Object.assign(event, { seq: event.seq + part * 2000 }));
      await transport.publish({ events, bytes: 2_000_000, commitEndLsn: part === 9 ? 2032n : null });
    }
    await transport.publish(new Tx(3000n).insert(a, 99_999).batch());
    const store = new Store();
    await store.read(transport);
    expect(store.parts).toBeGreaterThan(2);
    expect(store.lines).toHaveLength(20_003);
    const ids = store.lines.map((text) => Number(/ (\d+):/.exec(text)![1]));
    expect(ids).toEqual([0, 0, ...Array.from({ length: 20_000 }, (_, i) => i + 1), 99_999]);
  });

  it('keeps rows, beginnings and ends of later snapshots at their place', async () => {
    const transport = await capture(newPrefix());
    const at = (lsn: bigint) => new Tx(lsn, { xid: 0, snapshot: { id: 's2', kind: 'incremental', sinks: null } });
    await transport.publish(new Tx(1000n).insert(a, 1).insert(b, 1).batch());
    await transport.publish(at(2000n).add('t', a, null).batch());
    await transport.publish(new Tx(3000n).insert(b, 2).insert(a, 2).batch());
    await transport.publish(at(4000n).add('r', a, ['1', 'x']).add('r', a, ['2', 'x']).batch());
    await transport.publish(new Tx(5000n).insert(b, 3).insert(a, 3).batch());
    await transport.publish(at(6000n).about(a, SNAPSHOT_MESSAGE, '{"phase":"completed"}').batch());
    await transport.publish(new Tx(7000n).insert(b, 4).insert(a, 4).batch());
    const store = new Store();
    await store.read(transport);
    expect(store.lines).toEqual([
      ...['a c 1:x', 'b c 1:x', 'a t a', 'b c 2:x', 'a c 2:x', 'a r 1:x', 'a r 2:x', 'b c 3:x', 'a c 3:x'],
      ...[`a m ${SNAPSHOT_MESSAGE}:{"phase":"completed"}`, 'b c 4:x', 'a c 4:x'],
    ]);
  });

  it('takes over a sink that was consistent per table only', async () => {
    const transport = await capture(newPrefix());
    await transport.publish(new Tx(1000n).insert(a, 1).insert(b, 1).batch());
    await transport.publish(new Tx(2000n).insert(a, 2).insert(b, 2).batch());
    const store = new Store();
    await store.read(transport);
    // As if table b lagged behind.
    for (const [partition, offset] of store.offsets)
      if (!partition.includes('.a:'))
        store.offsets.set(partition, { ...offset, position: { commitLsn: 8n, seq: 0 }, next: 0n });
    await transport.publish(new Tx(3000n).insert(a, 3).insert(b, 3).batch());
    store.lines = [];
    await store.read(transport);
    expect(store.lines).toEqual(['b c 1:x', 'b c 2:x', 'a c 3:x', 'b c 3:x']);
  });

  it('refuses a transaction that is not whole any more', { timeout: 300_000 }, async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix, { partitions: 1 });
    await transport.publish(new Tx(1000n).insert(a, 1).insert(b, 1).batch());
    const store = new Store();
    await store.read(transport);
    await transport.publish(new Tx(2000n).insert(a, 2).insert(b, 2).insert(b, 3).batch());
    const admin = kafkaClient(brokers).admin();
    await admin.connect();
    const topic = `${prefix}.public.b`;
    await admin.fetchTopicMetadata({ topics: [topic] });
    await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '2' }] });
    await admin.disconnect();
    await expect(store.read(transport)).rejects.toMatchObject({ code: 'OFFSET_OUT_OF_RANGE' });
    // The same with a sink that was told to go on from there.
    const moved = store.offsets.get(`${topic}:0`)!;
    store.offsets.set(`${topic}:0`, { ...moved, next: 2n });
    await expect(store.read(transport)).rejects.toMatchObject({
      code: 'TRANSACTION_INCOMPLETE',
      message: expect.stringMatching(/0\/7D0 .*public\.b has 1 of its 2 changes/),
    });
  });

  it('is an error where its end is lost or says something else, and nothing of it is given out', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix, { partitions: 1 });
    await transport.publish(new Tx(1000n).insert(a, 1).insert(b, 1).batch());
    const store = new Store();
    await store.read(transport);
    const before = [...store.lines];
    await transport.publish(new Tx(2000n).insert(a, 2).insert(b, 2).batch());
    await transport.publish(new Tx(3000n).insert(a, 3).batch());
    const topic = `${prefix}.transaction`;
    const end = (await readTopic(brokers, topic)).find(({ offset }) => offset === 3n)!;
    const kafka = kafkaClient(brokers);
    const admin = kafka.admin();
    await admin.connect();
    await admin.fetchTopicMetadata({ topics: [topic] });
    await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '6' }] });
    await admin.disconnect();
    await expect(store.read(transport)).rejects.toMatchObject({ code: 'OFFSET_OUT_OF_RANGE' });
    // The same with a sink that was told to go on from there.
    store.offsets.set(`${topic}:0`, { ...store.offsets.get(`${topic}:0`)!, next: 6n });
    await expect(store.read(transport)).rejects.toMatchObject({
      code: 'TRANSACTION_INCOMPLETE',
      message: expect.stringMatching(/0\/7D0 .*its end is not in the transaction topic/),
      help: expect.stringContaining('--recopy'),
    });
    const producer = kafka.producer();
    await producer.connect();
    const wrong = JSON.stringify(end.value).replace(/("public\.b","event_count":)1/, '$13');
    expect(wrong).not.toBe(JSON.stringify(end.value));
    await producer.send({ topic, messages: [{ key: end.key, value: wrong, headers: end.headers }] });
    await producer.disconnect();
    await expect(store.read(transport)).rejects.toMatchObject({
      code: 'TRANSACTION_INCOMPLETE',
      message: expect.stringMatching(/0\/7D0 .*public\.b has 1 of its 3 changes/),
    });
    expect(store.lines).toEqual(before);
  });
});

function change(random: Random, tx: Tx): void {
  const table = random.pick(tables);
  const id = String(random.int(20));
  switch (random.int(8)) {
    case 0:
      tx.add('u', table, [`${id}k`, 'moved'], [id, null]);
      break;
    case 1:
      tx.add('d', table, null, [id, null]);
      break;
    case 2:
      if (random.int(4) === 0) tx.add('t', table, null);
      else tx.message('note', id);
      break;
    default:
      tx.insert(table, id, 'x'.repeat(random.int(50)));
  }
}
