import { randomUUID } from 'node:crypto';
import { existsSync, readlinkSync } from 'node:fs';
import { type Admin, Kafka, logLevel, type Producer } from 'kafkajs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { haveKafka, type KafkaServer, startKafka } from './kafka-server.ts';

describe.skipIf(!haveKafka().ok)('a Kafka server for tests', () => {
  const topic = `test-${randomUUID()}`;
  let server: KafkaServer;
  let kafka: Kafka;
  let admin: Admin;
  let producer: Producer;

  beforeAll(async () => {
    server = await startKafka();
    kafka = new Kafka({ brokers: server.brokers, logLevel: logLevel.NOTHING, retry: { retries: 10 } });
    admin = kafka.admin();
    producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
    await Promise.all([admin.connect(), producer.connect()]);
  }, 300_000);

  afterAll(async () => {
    await Promise.allSettled([admin.disconnect(), producer.disconnect()]);
    await server.stop();
  }, 300_000);

  async function read(count: number): Promise<string[]> {
    const consumer = kafka.consumer({ groupId: randomUUID() });
    const values: string[] = [];
    await consumer.connect();
    await consumer.subscribe({ topic, fromBeginning: true });
    await new Promise<void>((resolve, reject) => {
      const run = consumer.run({
        eachMessage: async ({ message }) => {
          values.push(String(message.value));
          if (values.length === count) resolve();
        },
      });
      run.catch(reject);
    });
    await consumer.disconnect();
    return values;
  }

  it('refuses a topic that nobody created', async () => {
    const fetched = admin.fetchTopicMetadata({ topics: [randomUUID()] });
    await expect(fetched).rejects.toThrow(/does not host this topic-partition/);
  }, 300_000);

  it('keeps what was produced through kill -9 and restart, on the same port', async () => {
    await admin.createTopics({ topics: [{ topic, numPartitions: 1 }] });
    await producer.send({ topic, messages: [{ value: 'one' }, { value: 'two' }] });
    expect(await read(2)).toEqual(['one', 'two']);
    const { port, pid } = server;
    server.kill();
    await server.restart();
    expect(server.port).toBe(port);
    expect(server.pid).not.toBe(pid);
    await producer.send({ topic, messages: [{ value: 'three' }] });
    expect(await read(3)).toEqual(['one', 'two', 'three']);
  }, 300_000);

  it('leaves nothing behind once stopped', async () => {
    const second = await startKafka({ heapMb: 256 });
    const { pid } = second;
    const home = readlinkSync(`/proc/${pid}/cwd`);
    await second.stop();
    expect(existsSync(home)).toBe(false);
    expect(() => process.kill(pid, 0)).toThrow(/ESRCH/);
  }, 300_000);
});
