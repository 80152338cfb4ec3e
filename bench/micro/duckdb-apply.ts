/*
 * How fast the DuckDB sink applies the bench row: `npx tsx bench/micro/duckdb-apply.ts [rows] [rowsPerDelivery]`.
 * Prints rows/s, CPU per row, how much of it was on the JavaScript thread, the longest block of the event loop, RSS.
 */
import { rm } from 'node:fs/promises';
import { pino } from 'pino';
import type { Delivery } from '../../src/event/batch.ts';
import { ChangeEvent, type Op, type Transaction } from '../../src/event/change-event.ts';
import type { Relation } from '../../src/event/relation.ts';
import { NULL, Row, TEXT } from '../../src/event/row.ts';
import { createDuckdbSink } from '../../src/sink/duckdb/duckdb-sink.ts';
import { columnType } from '../../test/support/column-type.ts';

const relation: Relation = {
  oid: 16385,
  schema: 'public',
  table: 'bench',
  replicaIdentity: 'd',
  columns: [
    { name: 'id', type: columnType('int8'), modifier: -1 },
    { name: 'name', type: columnType('text'), modifier: -1 },
    { name: 'amount', type: columnType('numeric'), modifier: ((12 << 16) | 2) + 4 },
    { name: 'payload', type: columnType('jsonb'), modifier: -1 },
    { name: 'created_at', type: columnType('timestamptz'), modifier: -1 },
  ],
  key: [0],
};

const PAD = 'x'.repeat(40);
/** Space between two rows of a read buffer: the headers of pgoutput and of the COPY frame. */
const HEADER_BYTES = 35;
let commitLsn = 1000n;

/** Deliveries are written here one after another: what they leave behind would drown what the sink needs. */
const arena = Buffer.alloc(24 << 20, 0xff);

function writeTuple(at: number, values: readonly (string | null)[]): number {
  let to = arena.writeUInt16BE(values.length, at);
  for (const value of values) {
    to = arena.writeUInt8(value === null ? NULL : TEXT, to);
    if (value === null) continue;
    const length = arena.write(value, to + 4, 'latin1');
    to = arena.writeUInt32BE(length, to) + length;
  }
  return to;
}

function delivery(op: Op, ids: readonly number[], perBuffer = 400): Delivery {
  commitLsn += 100n;
  const transaction: Transaction = { xid: 1, commitLsn, commitTimeUs: 0n, snapshot: null, origin: null };
  const events: ChangeEvent[] = [];
  let at = 0;
  for (let from = 0; from < ids.length; from += perBuffer) {
    const first = at;
    const starts: number[] = [];
    for (const id of ids.slice(from, from + perBuffer)) {
      at += HEADER_BYTES;
      starts.push(at - first);
      const document = `{"k": ${id}, "note": "${PAD}", "tags": ["a", "b", "c"]}`;
      const whole = [`${id}`, `customer ${id}`, (id / 7).toFixed(2), document, '2026-11-22 03:00:00.123456+00'];
      at = writeTuple(at, op === 'd' ? [`${id}`, null, null, null, null] : whole);
    }
    const buffer = arena.subarray(first, at);
    for (const start of starts) {
      const row = new Row(relation, buffer, start);
      const seq = events.length + 1;
      events.push(
        new ChangeEvent(op, transaction, seq, seq, 0n, relation, op === 'd' ? row : null, op === 'd' ? null : row),
      );
    }
  }
  const offsets = [{ partition: '', position: { commitLsn: commitLsn + 1n, seq: 0 }, next: null }];
  return { events, bytes: at, offsets, complete: true };
}

const rows = Number(process.argv[2] ?? 2_000_000);
const perDelivery = Number(process.argv[3] ?? 50_000);
const path = '/tmp/waltide-bench.duckdb';
for (const suffix of ['', '.wal', '.tmp']) await rm(path + suffix, { recursive: true, force: true });
const sink = createDuckdbSink(
  {
    name: 'bench',
    type: 'duckdb',
    path,
    memoryLimit: '256MB',
    threads: 2,
    s3: false,
    onUnrepresentable: 'text',
    schemaChanges: 'evolve',
    droppedTables: 'keep',
    rowBytesMax: 134_217_728,
    consistency: 'table',
    transactionBytesMax: 2 ** 32,
    breaker: { failuresMax: 8, openMs: 30_000 },
    batch: { rowsMax: perDelivery, bytesMax: 24 << 20, lingerMs: 10 },
  },
  pino({ level: 'warn' }),
);
await sink.open({ systemIdentifier: '1', timeline: 1, slot: 's', database: 'd' });

let rssMax = 0;
/** When the loop last turned, and the longest it took while a delivery was applied. */
let turnedAt = Number.POSITIVE_INFINITY;
let blockMax = 0;
setInterval(() => {
  const now = performance.now();
  blockMax = Math.max(blockMax, now - turnedAt);
  turnedAt = now;
  rssMax = Math.max(rssMax, process.memoryUsage.rss());
}, 1).unref();

async function measure(name: string, deliveries: () => Iterable<Delivery>): Promise<void> {
  let count = 0;
  let wall = 0;
  let cpu = 0;
  let active = 0;
  blockMax = 0;
  for (const one of deliveries()) {
    const usage = process.cpuUsage();
    const loop = performance.eventLoopUtilization();
    const began = performance.now();
    turnedAt = began;
    await sink.apply(one);
    turnedAt = Number.POSITIVE_INFINITY;
    wall += performance.now() - began;
    const used = process.cpuUsage(usage);
    cpu += used.user + used.system;
    active += performance.eventLoopUtilization(loop).active * 1000;
    count += one.events.length;
  }
  const figures = [
    `${Math.round((count / wall) * 1000)} rows/s`,
    `${(cpu / count).toFixed(2)} µs CPU/row`,
    `${(active / count).toFixed(2)} µs of it in JS`,
    `longest block ${blockMax.toFixed(1)} ms`,
    `RSS max ${Math.round(rssMax / 1e6)} MB`,
  ];
  console.log(`${name.padEnd(44)} ${figures.join('  ')}`);
}

const range = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i);

function* inserts(from: number, count: number, size: number, perBuffer?: number): Iterable<Delivery> {
  for (let at = 0; at < count; at += size) yield delivery('c', range(from + at, Math.min(size, count - at)), perBuffer);
}

function* changes(op: 'u' | 'd', rounds: number, size: number): Iterable<Delivery> {
  for (let i = 0; i < rounds; i++) {
    const seen = new Set<number>();
    while (seen.size < size) seen.add(Math.floor(Math.random() * rows));
    yield delivery(op, [...seen]);
  }
}

await measure('warm-up', () => inserts(rows * 10, perDelivery, perDelivery));
await measure(`insert ${rows} in ${perDelivery}`, () => inserts(0, rows, perDelivery));
await measure(`insert, one buffer per row, in ${perDelivery}`, () => inserts(rows, perDelivery * 4, perDelivery, 1));
await measure('insert in 10000', () => inserts(rows * 2, 200_000, 10_000));
await measure('insert in 1000', () => inserts(rows * 3, 50_000, 1000));
await measure(`random update in ${perDelivery}`, () => changes('u', 6, perDelivery));
await measure('random update in 10000', () => changes('u', 10, 10_000));
await measure('random delete in 10000', () => changes('d', 3, 10_000));
if (process.env.BENCH_MEMORY) {
  console.log(process.memoryUsage());
  console.log(
    (await sink.query!('FROM duckdb_memory() WHERE memory_usage_bytes > 0', { rowsMax: 99, timeoutMs: 999 })).rows,
  );
}
const began = performance.now();
await sink.close();
console.log(`close ${Math.round(performance.now() - began)} ms`);
