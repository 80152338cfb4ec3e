/*
 * Events through the Kafka transport: publish until durable, then read back. Prints events/s and CPU µs per event of
 * this process, codec included; with --encode it leaves the broker out and times the records alone, with a codec that
 * only copies (what the transport itself costs) and with the JSON codec.
 *
 *   npx tsx bench/micro/kafka-produce.ts 127.0.0.1:9092 [events] [batch]
 *   npx tsx bench/micro/kafka-produce.ts --encode [events] [batch]
 */
import { pino } from 'pino';
import { configSchema, type KafkaConfig } from '../../src/config/schema.ts';
import type { Batch } from '../../src/event/batch.ts';
import { ChangeEvent, type Transaction } from '../../src/event/change-event.ts';
import type { EventCodec } from '../../src/event/codec.ts';
import { createJsonCodec } from '../../src/event/json.ts';
import type { Column, Relation } from '../../src/event/relation.ts';
import { encodeTuple, Row } from '../../src/event/row.ts';
import { EventWriter } from '../../src/transport/kafka/event-writer.ts';
import { createKafkaTransport } from '../../src/transport/kafka/kafka-transport.ts';
import { PartitionLog, Ticket } from '../../src/transport/kafka/partition-log.ts';
import type { Producer } from '../../src/transport/kafka/producer.ts';
import { encodeHeader } from '../../src/transport/kafka/record-batch.ts';
import { columnType } from '../../test/support/column-type.ts';

const IN_FLIGHT_BYTES_MAX = 32 * 1024 * 1024;
const [target = '--encode', eventsText = '500000', batchText = '1000'] = process.argv.slice(2);
const EVENTS = Number(eventsText);
const BATCH = Number(batchText);

const TYPES = ['int8', 'text', 'numeric', 'jsonb', 'timestamptz'];
const columns: Column[] = ['id', 'name', 'amount', 'payload', 'created_at'].map((name, i) => ({
  name,
  type: columnType(TYPES[i]!),
  modifier: -1,
}));
const relation: Relation = { oid: 1, schema: 'public', table: 'bench', replicaIdentity: 'd', columns, key: [0] };

function makeBatch(first: number): Batch {
  const commitLsn = BigInt(1000 + first);
  const transaction: Transaction = {
    xid: 7,
    commitLsn,
    commitTimeUs: 1_700_000_000_000_000n,
    snapshot: null,
    origin: null,
  };
  const events: ChangeEvent[] = [];
  let bytes = 0;
  for (let i = 0; i < BATCH; i++) {
    const id = first + i;
    const payload = `{"k": ${id}, "note": "${'x'.repeat(40)}", "tags": ["a", "b", "c"]}`;
    const tuple = encodeTuple([
      String(id),
      `customer ${id}`,
      (id / 7).toFixed(2),
      payload,
      '2026-11-22 03:00:00.123456+00',
    ]);
    bytes += tuple.length + 64;
    events.push(
      new ChangeEvent('c', transaction, i + 1, i + 1, commitLsn, relation, null, new Row(relation, tuple, 0)),
    );
  }
  return { events, bytes, commitEndLsn: commitLsn + BigInt(BATCH) };
}

function report(what: string, events: number, startedMs: number, startedCpu: NodeJS.CpuUsage): void {
  const cpu = process.cpuUsage(startedCpu);
  const seconds = (performance.now() - startedMs) / 1000;
  console.log(
    `${what}: ${Math.round(events / seconds)} events/s, ${((cpu.user + cpu.system) / events).toFixed(2)} µs CPU per event`,
  );
}

const json = createJsonCodec({ name: 'bench', database: 'bench', version: 'bench' });

/** What is left when the codec costs next to nothing: one copy of a value of the usual size. */
function copyingCodec(): EventCodec {
  const value = Buffer.alloc(520, 0x61);
  return {
    writeKey(out, event) {
      const row = event.after!;
      const from = row.starts()[0]! + 5;
      const bytes = out.reserve(16);
      out.length += row.bytes.copy(bytes, out.length, from, row.starts()[1]!);
      return true;
    },
    writeValue(out) {
      const bytes = out.reserve(value.length);
      out.length += value.copy(bytes, out.length);
    },
    readEvent() {
      throw new Error('not used');
    },
  };
}

function encodeOnly(what: string, codec: EventCodec): void {
  const config = kafkaConfig('127.0.0.1:1');
  const producer = { wrote: (log: PartitionLog, ticket: Ticket) => log.wrote(ticket) } as unknown as Producer;
  const writer = new EventWriter(producer, codec, config, () => {});
  const log = new PartitionLog('bench', 0);
  const route = { logs: [log], relationHeader: encodeHeader('waltide.relation', '0123456789abcdef') };
  const batches = Array.from({ length: 20 }, (_, i) => makeBatch(i * BATCH));
  for (let round = 0; round < 3; round++) {
    const cpu = process.cpuUsage();
    const startedMs = performance.now();
    let events = 0;
    while (events < EVENTS) {
      for (const batch of batches) {
        const ticket = new Ticket(() => {});
        for (const event of batch.events) writer.write(event, route, ticket);
        events += batch.events.length;
        for (let sealed = log.next(); sealed; sealed = log.next()) {
          log.take(sealed, { id: 1n, epoch: 0 });
          log.inFlight--;
          log.confirm(sealed, 0n);
        }
      }
    }
    report(what, events, startedMs, cpu);
  }
}

function kafkaConfig(broker: string): KafkaConfig {
  const transport = { type: 'kafka' as const, brokers: [broker], topicPrefix: `bench_${Date.now()}` };
  return configSchema.parse({ source: { url: 'postgres://localhost/bench', tables: ['public.*'] }, transport })
    .transport as KafkaConfig;
}

async function throughBroker(): Promise<void> {
  const log = pino({ level: 'warn' });
  const transport = createKafkaTransport(kafkaConfig(target), { log, codec: () => json });
  const identity = { systemIdentifier: '1', timeline: 1, slot: 'bench', database: 'bench' };
  await transport.openCapture(identity, null);
  await transport.publish(makeBatch(0));
  const batches = Array.from({ length: Math.ceil(EVENTS / BATCH) }, (_, i) => makeBatch((i + 1) * BATCH));
  let startedMs = performance.now();
  let cpu = process.cpuUsage();
  let last: Promise<void> = Promise.resolve();
  for (const batch of batches) {
    last = transport.publish(batch);
    while (transport.bytesInFlight > IN_FLIGHT_BYTES_MAX) await new Promise((resolve) => setTimeout(resolve, 1));
    await new Promise(setImmediate);
  }
  await last;
  report('publish until durable', batches.length * BATCH, startedMs, cpu);
  const subscription = await transport.subscribe('bench', []);
  startedMs = performance.now();
  cpu = process.cpuUsage();
  let events = 0;
  const wanted = (batches.length + 1) * BATCH;
  while (events < wanted) {
    const delivery = await subscription.receive(AbortSignal.timeout(60_000));
    events += delivery.events.length;
    subscription.applied(delivery);
  }
  report('receive and decode', events, startedMs, cpu);
  await transport.close();
}

if (target === '--encode') {
  encodeOnly('records, copying codec', copyingCodec());
  encodeOnly('records, JSON codec', json);
} else await throughBroker();
