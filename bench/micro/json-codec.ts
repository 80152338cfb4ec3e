/**
 * CPU per event of the JSON codec, on the 5-column row that all of the project's figures use. `npx tsx
 * bench/micro/json-codec.ts [events]`. Encoding is one key and one value per event, as the Kafka road does it.
 */
import { ByteWriter } from '../../src/event/byte-writer.ts';
import { ChangeEvent, type Transaction } from '../../src/event/change-event.ts';
import { createJsonCodec } from '../../src/event/json.ts';
import type { Relation } from '../../src/event/relation.ts';
import { encodeTuple, Row } from '../../src/event/row.ts';
import { columnType } from '../../test/support/column-type.ts';

const EVENTS = Number(process.argv[2] ?? 100_000);
const ROUNDS = 4;
const TRANSACTION_EVENTS = 1000;
const BATCH_EVENTS = 2500;

const relation: Relation = {
  oid: 16_400,
  schema: 'public',
  table: 'bench',
  replicaIdentity: 'd',
  columns: [
    { name: 'id', type: columnType('int8', { oid: 20 }), modifier: -1 },
    { name: 'name', type: columnType('text', { oid: 25 }), modifier: -1 },
    { name: 'amount', type: columnType('numeric', { oid: 1700 }), modifier: ((12 << 16) | 2) + 4 },
    { name: 'payload', type: columnType('jsonb', { oid: 3802 }), modifier: -1 },
    { name: 'created_at', type: columnType('timestamptz', { oid: 1184 }), modifier: -1 },
  ],
  key: [0],
};

const events: ChangeEvent[] = [];
let transaction: Transaction | undefined;
for (let i = 0; i < EVENTS; i++) {
  if (i % TRANSACTION_EVENTS === 0 || !transaction) {
    const commitTimeUs = 1_795_318_346_558_123n + BigInt(i);
    transaction = {
      xid: 700 + i,
      commitLsn: 30_000_000n + BigInt(i) * 400n,
      commitTimeUs,
      snapshot: null,
      origin: null,
    };
  }
  const tuple = encodeTuple([
    String(i),
    `customer ${i}`,
    (i / 7).toFixed(2),
    `{"k": ${i}, "note": "${'x'.repeat(40)}", "tags": ["a", "b", "c"]}`,
    '2026-11-22 03:00:00.123456+00',
  ]);
  const seq = (i % TRANSACTION_EVENTS) + 1;
  const lsn = 29_000_000n + BigInt(i) * 340n;
  events.push(new ChangeEvent('c', transaction, seq, seq, lsn, relation, null, new Row(relation, tuple, 0)));
}

const codec = createJsonCodec({ name: 'shop', database: 'postgres', version: '0.1.0' });

function measure(name: string, run: () => number): void {
  for (let round = 0; round < ROUNDS; round++) {
    const from = process.cpuUsage();
    const bytes = run();
    const used = process.cpuUsage(from);
    const micros = (used.user + used.system) / EVENTS;
    console.log(`${name}: ${micros.toFixed(2)} µs/event, ${(bytes / EVENTS).toFixed(0)} bytes/event`);
  }
}

measure('encode', () => {
  const out = new ByteWriter(4 << 20);
  let bytes = 0;
  for (let i = 0; i < EVENTS; i++) {
    if (i % BATCH_EVENTS === 0) out.length = 0;
    const before = out.length;
    codec.writeKey(out, events[i]!, 'after');
    codec.writeValue(out, events[i]!);
    bytes += out.length - before;
  }
  return bytes;
});

const values = events.map((event) => {
  const out = new ByteWriter(1024);
  codec.writeValue(out, event);
  return out.bytes.subarray(0, out.length);
});

measure('decode', () => {
  let bytes = 0;
  for (let i = 0; i < EVENTS; i++) {
    const event = events[i]!;
    codec.readEvent(values[i]!, { transaction: event.transaction, seq: event.seq, unchanged: [], relation });
    bytes += values[i]!.length;
  }
  return bytes;
});
