import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { type KafkaServer, startKafka } from '../support/kafka-server.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';
import { TcpProxy, type Wire } from '../support/tcp-proxy.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';
import { readTopic } from '../transport/kafka/reader.ts';

/*
 * Goal: whatever the wire to Kafka does, capture and apply come through by themselves, with nothing lost and nothing in
 * the topics twice. Method: the broker sends its clients to a proxy; the oracles are PostgreSQL for the rows, and for the
 * topics a reader of committed records by another library on the plain port.
 */
let kafka: KafkaServer;
let proxy: TcpProxy;

beforeAll(async () => {
  proxy = await TcpProxy.unaimed();
  kafka = await startKafka({ listeners: { WIRE: 'PLAINTEXT' }, advertised: { WIRE: proxy.port } });
  proxy.aim(Number(kafka.listeners.WIRE!.split(':')[1]));
}, 300_000);
afterAll(async () => {
  await proxy?.close();
  await kafka?.stop();
});

const random = new Random(17);
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

const FAULTS: Record<string, { wire?: Wire; every?: { ms: number; what: () => void } }> = {
  'pieces of any size, and late': {
    wire: async (bytes) => {
      const parts: Buffer[] = [];
      for (let at = 0; at < bytes.length; ) {
        const next = at + 1 + random.int(random.int(20) === 0 ? 5 : 4000);
        parts.push(bytes.subarray(at, next));
        at = next;
      }
      await pause(random.int(3));
      return parts;
    },
  },
  'answers that take long': {
    wire: async (bytes) => {
      // More would not let a request of 4 MB come through within its time-out here.
      await pause(random.int(15));
      return [bytes];
    },
  },
  'resets in the midst of messages': {
    wire: async (bytes) => {
      if (bytes.length < 200 || random.int(60) > 0) return [bytes];
      setImmediate(() => proxy.cut());
      return [bytes.subarray(0, 1 + random.int(bytes.length - 1))];
    },
    every: { ms: 700, what: () => proxy.cut() },
  },
  'connections that go silent': { every: { ms: 1500, what: () => proxy.freeze() } },
};

// Kafka transactions come through slow answers, too, but so slowly that the time of a test is no measure for it.
const CASES = Object.keys(FAULTS)
  .flatMap((fault) => [false, true].map((exactlyOnce) => [fault, exactlyOnce] as const))
  .filter(([fault, exactlyOnce]) => !exactlyOnce || fault !== 'answers that take long');

it.each(CASES)('comes through %s (exactlyOnce: %s)', { timeout: 300_000 }, async (fault, exactlyOnce) => {
  const { wire = null, every } = FAULTS[fault]!;
  const database = await createDatabase();
  const transport = {
    type: 'kafka' as const,
    brokers: [`127.0.0.1:${proxy.port}`],
    topicPrefix: database.name,
    exactlyOnce,
  };
  const { config, path } = testPipeline(database, { transport });
  // A connection that goes silent is given up after this; a slow machine must not look like one.
  const patienceMs = fault.includes('silent') ? 2000 : 10_000;
  const faulty = {
    ...config,
    transport: { ...config.transport, connectTimeoutMs: patienceMs, requestTimeoutMs: patienceMs },
  } as Config;
  await database.query(SCHEMA);
  proxy.wire = null;
  expect(await catchUp(config)).toEqual([]);
  proxy.wire = wire;
  const running = (['capture', 'apply'] as const).map((role) => start(faulty, { role }));
  await eventually('it streams', () => running[0]!.pipeline.status().source?.connected === true);
  const timer = every ? setInterval(every.what, every.ms) : null;
  await runWorkload(database.url, 1, AbortSignal.timeout(6000), 3);
  if (timer) clearInterval(timer);
  const [row] = await database.query('select pg_current_wal_lsn()::text as lsn');
  const reached = async (): Promise<boolean> => {
    const [slot] = await database.query(
      'select confirmed_flush_lsn >= $2::pg_lsn as yes from pg_replication_slots where slot_name = $1',
      [database.name, row!.lsn],
    );
    return slot?.yes === true;
  };
  await eventually('the capture has come through', reached, 120_000);
  for (const { stop } of running) await stop();
  proxy.wire = null;
  proxy.cut();
  expect(await catchUp(config)).toEqual([]);
  expect(await withDuckdb(path, (query) => differences(database.url, query, TABLES))).toEqual([]);
  for (const table of TABLES) {
    const changes = (await readTopic(kafka.brokers, `${database.name}.${table}`))
      .filter(({ headers }) => headers['waltide.txn']?.split(',')[2] === '0')
      .map(({ headers, value, partition }) =>
        [headers['waltide.lsn'], headers['waltide.seq'], headers['waltide.key-change'] ?? value?.op, partition].join(),
      );
    expect(changes.length, `${table}: nothing twice`).toBe(new Set(changes).size);
  }
  await database.drop();
});
