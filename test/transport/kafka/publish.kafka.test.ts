import { beforeAll, describe, expect, it } from 'vitest';
import type { KafkaConfig } from '../../../src/config/schema.ts';
import type { Transport } from '../../../src/transport/transport.ts';
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
import { deleteTopics, kafkaClient, readTopic } from './reader.ts';

let brokers: string[];

beforeAll(async () => {
  brokers = await ensureSharedKafka();
});

async function capture(prefix: string, more: Partial<KafkaConfig> = {}): Promise<Transport> {
  const transport = closedAfterTest(openTransport(kafkaConfig(brokers, prefix, more)));
  await transport.openCapture(IDENTITY, null);
  return transport;
}

async function topics(prefix: string): Promise<string[]> {
  const admin = kafkaClient(brokers).admin();
  await admin.connect();
  const all = await admin.listTopics();
  await admin.disconnect();
  return all.filter((name) => name.startsWith(`${prefix}.`)).sort();
}

describe('records, read by kafkajs', () => {
  it('go to a topic per table, with characters that Kafka forbids replaced', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    const odd = relation('naïve table$', { schema: 'My Schema' });
    await transport.publish(new Tx(100n).insert(relation('plain'), 1).insert(odd, 1).message('audit', 'hi').batch());
    expect(await topics(prefix)).toEqual([
      `${prefix}.My_Schema.na_ve_table_`,
      `${prefix}.__waltide_progress`,
      `${prefix}.__waltide_schema`,
      `${prefix}.message`,
      `${prefix}.public.plain`,
    ]);
    const [message] = await readTopic(brokers, `${prefix}.message`);
    expect(message!.value).toMatchObject({ op: 'm' });
    expect(message!.headers['waltide.relation']).toBeUndefined();
  });

  it('have key, value and headers; a delete is followed by a tombstone', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    const table = relation('orders');
    const lsn = 0x16_b374_d848n;
    const tx = new Tx(lsn).insert(table, 1, 'one').add('u', table, ['1', undefined]).add('d', table, null, ['1', null]);
    await transport.publish(tx.batch());
    const records = await readTopic(brokers, `${prefix}.public.orders`);
    expect(records.map(({ key }) => key)).toEqual(Array(4).fill('{"id":1}'));
    expect(records.map(({ value }) => value?.op ?? null)).toEqual(['c', 'u', 'd', null]);
    expect(records[0]!.value).toMatchObject({
      before: null,
      after: { id: 1, note: 'one' },
      source: { table: 'orders' },
    });
    expect(records[0]!.headers).toEqual({
      'waltide.lsn': '16/B374D848',
      'waltide.txn': '700,1700000000123456,0,',
      'waltide.seq': '1',
      'waltide.relation': expect.stringMatching(/^[0-9a-f]{16}$/),
    });
    expect(records[1]!.headers).toMatchObject({ 'waltide.seq': '2', 'waltide.unchanged': '1' });
    expect(records[3]!.headers).toEqual({});
    const [schema] = await readTopic(brokers, `${prefix}.__waltide_schema`);
    expect(schema!.key).toBe(records[0]!.headers['waltide.relation']);
    expect(schema!.value).toMatchObject({
      topic: `${prefix}.public.orders`,
      relation: JSON.parse(JSON.stringify(table)),
    });
  });

  it('turn a changed key into delete, tombstone and create', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    const table = relation('orders');
    const tx = new Tx(100n).insert(table, 1, 'a').add('u', table, ['2', undefined], ['1', null]);
    // Under REPLICA IDENTITY FULL the old row comes along although the key is the same: that is one record.
    await transport.publish(tx.add('u', table, ['2', 'c'], ['2', 'b']).batch());
    const records = await readTopic(brokers, `${prefix}.public.orders`);
    expect(records.map(({ key, value }) => `${key} ${value?.op ?? null}`)).toEqual([
      '{"id":1} c',
      '{"id":1} d',
      '{"id":1} null',
      '{"id":2} c',
      '{"id":2} u',
    ]);
    expect(records.map(({ headers }) => headers['waltide.key-change'])).toEqual([
      undefined,
      'd',
      undefined,
      'c',
      undefined,
    ]);
    expect(records[3]!.headers['waltide.unchanged']).toBe('1');
  });

  it('leave tombstones out where they are not wanted, and have no key where the table has none', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix, { tombstones: false });
    const keyless = relation('log', { key: [], replicaIdentity: 'f' });
    const table = relation('orders');
    const tx = new Tx(100n)
      .insert(table, 1)
      .add('d', table, null, ['1', null])
      .add('u', table, ['3', 'x'], ['2', null]);
    await transport.publish(tx.insert(keyless, 1).add('d', keyless, null, ['1', 'x']).batch());
    const records = await readTopic(brokers, `${prefix}.public.orders`);
    expect(records.map(({ value }) => value?.op)).toEqual(['c', 'd', 'd', 'c']);
    expect((await readTopic(brokers, `${prefix}.public.log`)).map(({ key, value }) => [key, value?.op])).toEqual([
      [null, 'c'],
      [null, 'd'],
    ]);
  });

  it('spread over partitions as the default partitioner does; a truncate goes to every partition', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix, { partitions: 3 });
    const table = relation('orders');
    const tx = new Tx(100n);
    for (let id = 1; id <= 60; id++) tx.insert(table, id);
    await transport.publish(tx.add('t', table, null).batch());
    const records = await readTopic(brokers, `${prefix}.public.orders`);
    const truncates = records.filter(({ value }) => value?.op === 't');
    expect(truncates.map(({ partition, key }) => [partition, key]).sort()).toEqual([0, 1, 2].map((i) => [i, null]));
    const producer = kafkaClient(brokers).producer();
    await producer.connect();
    for (const { key, partition } of records.filter((record) => record.key).slice(0, 10)) {
      const [sent] = await producer.send({ topic: `${prefix}.public.orders`, messages: [{ key, value: '{}' }] });
      expect(sent!.partition).toBe(partition);
    }
    await producer.disconnect();
  });

  it('can go to compacted topics, which refuse null keys', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix, { cleanupPolicy: 'compact' });
    const table = relation('orders');
    await transport.publish(new Tx(100n).insert(table, 1).add('t', table, null).batch());
    const records = await readTopic(brokers, `${prefix}.public.orders`);
    expect(records.map(({ key }) => key)).toEqual(['{"id":1}', '{"__waltide":"0/64#2"}']);
  });
});

describe('topics', () => {
  it('are refused where two tables would share one', async () => {
    const transport = await capture(newPrefix());
    const tx = new Tx(100n).insert(relation('a b'), 1).insert(relation('a$b'), 1);
    await expect(transport.publish(tx.batch())).rejects.toMatchObject({
      code: 'TABLES',
      message: /public\.a\$b and public\.a b/,
    });
  });

  it('are used as they are where they exist', async () => {
    const prefix = newPrefix();
    const admin = kafkaClient(brokers).admin();
    await admin.connect();
    await admin.createTopics({ topics: [{ topic: `${prefix}.public.orders`, numPartitions: 2 }] });
    await admin.disconnect();
    const transport = await capture(prefix);
    const tx = new Tx(100n);
    for (let id = 0; id < 40; id++) tx.insert(relation('orders'), id);
    await transport.publish(tx.batch());
    const records = await readTopic(brokers, `${prefix}.public.orders`);
    expect(new Set(records.map(({ partition }) => partition)).size).toBe(2);
  });

  it('that are deleted under way end publishing with a clear error, and are not made again', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    await transport.publish(new Tx(100n).insert(relation('orders'), 1).batch());
    await deleteTopics(brokers, [`${prefix}.public.orders`]);
    const failed = await transport
      .publish(new Tx(200n).insert(relation('orders'), 2).batch())
      .catch((error: unknown) => error);
    expect(failed).toMatchObject({
      code: 'TOPIC_MISSING',
      message: expect.stringContaining(`${prefix}.public.orders`),
    });
    await expect(transport.publish(keepalive(300n))).rejects.toMatchObject({ code: 'TOPIC_MISSING' });
    expect(await topics(prefix)).not.toContain(`${prefix}.public.orders`);
    const again = closedAfterTest(openTransport(kafkaConfig(brokers, prefix)));
    await expect(again.openCapture(IDENTITY, 120n)).rejects.toMatchObject({ code: 'TOPIC_MISSING' });
  });

  it('that are deleted and created again are told apart', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    const topic = `${prefix}.public.orders`;
    await transport.publish(new Tx(100n).insert(relation('orders'), 1).batch());
    await deleteTopics(brokers, [topic]);
    const admin = kafkaClient(brokers).admin();
    await admin.connect();
    await admin.createTopics({ topics: [{ topic, numPartitions: 1 }] });
    await admin.disconnect();
    const failed = await transport
      .publish(new Tx(200n).insert(relation('orders'), 2).batch())
      .catch((error: unknown) => error);
    expect(failed).toMatchObject({ code: 'TOPIC_MISSING', message: expect.stringContaining('created again') });
  });
});

describe('records that are too large', () => {
  const big = 'x'.repeat(200_000);

  it('stop publishing by default, with table, key and size', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix, { maxRecordBytes: 100_000 });
    const failed = transport.publish(
      new Tx(100n).insert(relation('orders'), 1).insert(relation('orders'), 2, big).batch(),
    );
    await expect(failed).rejects.toMatchObject({
      code: 'RECORD_TOO_LARGE',
      message: /public\.orders with key \{"id":2\} takes 200\d{3} bytes/,
    });
  });

  it('are put aside as dead letters where that is asked for, and the others go on', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix, { maxRecordBytes: 100_000, oversize: 'dead-letter' });
    const table = relation('orders');
    await transport.publish(new Tx(100n).insert(table, 1).insert(table, 2, big).insert(table, 3).batch());
    expect((await readTopic(brokers, `${prefix}.public.orders`)).map(({ key }) => key)).toEqual([
      '{"id":1}',
      '{"id":3}',
    ]);
    const [letter] = await readTopic(brokers, `${prefix}.dead-letter`);
    expect(letter!.value).toMatchObject({
      table: 'public.orders',
      key: '{"id":2}',
      position: '0/64#2',
      code: 'RECORD_TOO_LARGE',
    });
  });

  it.each(['fail', 'dead-letter'] as const)("are found by the broker's lower limit as well (%s)", async (oversize) => {
    const prefix = newPrefix();
    const topic = `${prefix}.public.orders`;
    const admin = kafkaClient(brokers).admin();
    await admin.connect();
    const configEntries = [{ name: 'max.message.bytes', value: '50000' }];
    await admin.createTopics({ topics: [{ topic, numPartitions: 1, configEntries }] });
    await admin.disconnect();
    const transport = await capture(prefix, { oversize });
    const table = relation('orders');
    // All small ones together are too large for one batch: it is split until it fits.
    const tx = new Tx(100n);
    for (let id = 0; id < 300; id++) tx.insert(table, id, id === 150 ? big : 'y'.repeat(500));
    const done = transport.publish(tx.batch());
    if (oversize === 'fail') {
      await expect(done).rejects.toMatchObject({ code: 'RECORD_TOO_LARGE', message: /\{"id":150\}/ });
      return;
    }
    await done;
    await transport.publish(new Tx(900n).insert(table, 999).batch());
    const keys = (await readTopic(brokers, topic)).map(({ key }) => Number(JSON.parse(key!).id));
    expect(keys).toEqual([...Array.from({ length: 300 }, (_, i) => i).filter((id) => id !== 150), 999]);
    const [letter] = await readTopic(brokers, `${prefix}.dead-letter`);
    expect(letter!.value).toMatchObject({ topic, key: '{"id":150}', position: '0/64#151' });
  });
});

describe('durability', () => {
  it('counts bytes in flight and writes progress that says where the topics end', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    const batch = new Tx(100n).insert(relation('orders'), 1).insert(relation('items'), 1).batch();
    const done = transport.publish(batch);
    expect(transport.bytesInFlight).toBe(batch.bytes);
    await done;
    expect(transport.bytesInFlight).toBe(0);
    await transport.publish(keepalive(0x200n));
    const progress = (await readTopic(brokers, `${prefix}.__waltide_progress`)).at(-1)!;
    expect(progress.value).toMatchObject({
      lsn: '0/200',
      identity: IDENTITY,
      ends: { [`${prefix}.public.orders`]: [1], [`${prefix}.public.items`]: [1] },
    });
  });

  it('resolves publishes in order, with few progress records under load', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    const table = relation('orders');
    const order: number[] = [];
    const all = Array.from({ length: 400 }, (_, i) =>
      transport.publish(new Tx(BigInt(1000 + i * 100)).insert(table, i).batch()).then(() => order.push(i)),
    );
    await Promise.all(all);
    expect(order).toEqual(order.map((_, i) => i));
    expect((await readTopic(brokers, `${prefix}.__waltide_progress`)).length).toBeLessThan(60);
    const ids = (await readTopic(brokers, `${prefix}.public.orders`)).map(({ key }) => JSON.parse(key!).id);
    expect(ids).toEqual(all.map((_, i) => i));
  });

  it('refuses another cluster, another slot, and a slot that is ahead', async () => {
    const prefix = newPrefix();
    const first = await capture(prefix);
    await first.publish(new Tx(100n).insert(relation('orders'), 1).batch());
    const attempt = (change: Partial<typeof IDENTITY>, confirmed: bigint | null, name = prefix) => {
      const transport = closedAfterTest(openTransport(kafkaConfig(brokers, name)));
      return transport.openCapture({ ...IDENTITY, ...change }, confirmed);
    };
    await expect(attempt({ systemIdentifier: '8' }, null)).rejects.toMatchObject({ code: 'CLUSTER_MISMATCH' });
    await expect(attempt({ slot: 'other' }, null)).rejects.toMatchObject({ code: 'CLUSTER_MISMATCH' });
    await expect(attempt({}, 5000n)).rejects.toMatchObject({ code: 'SLOT_AHEAD', message: /0\/1388.*0\/84/ });
    await expect(attempt({}, 5000n, newPrefix())).rejects.toMatchObject({
      code: 'SLOT_AHEAD',
      message: /hold nothing/,
    });
    await attempt({ timeline: 2, ancestors: [{ timeline: 1, end: '0/84' }] }, 132n);
    await attempt({}, null);
  });

  it('lets a reader know the identity once a capture was there', async () => {
    const prefix = newPrefix();
    const reader = closedAfterTest(openTransport(kafkaConfig(brokers, prefix)));
    await expect(reader.identity(AbortSignal.timeout(300))).rejects.toMatchObject({ name: 'TimeoutError' });
    const waiting = reader.identity(AbortSignal.timeout(90_000));
    await capture(prefix);
    expect(await waiting).toEqual(IDENTITY);
  });

  it('reaches a reader at once, record by record', async () => {
    const prefix = newPrefix();
    const transport = await capture(prefix);
    const table = relation('orders');
    await transport.publish(new Tx(100n).insert(table, 0).batch());
    const collector = new Collector(await transport.subscribe('fast', []));
    await collector.until(() => collector.events.length === 1);
    for (let i = 1; i <= 50; i++) {
      void transport.publish(new Tx(BigInt(1000 * i)).insert(table, i).batch());
      await collector.until(() => collector.events.length === i + 1);
    }
  });
});
