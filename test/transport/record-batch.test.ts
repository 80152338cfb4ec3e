import { createRequire } from 'node:module';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { crc32c, slicedCrc32c } from '../../src/transport/kafka/crc32c.ts';
import { murmur2, partitionOf } from '../../src/transport/kafka/murmur2.ts';
import { PartitionLog, Ticket } from '../../src/transport/kafka/partition-log.ts';
import { BatchEncoder, encodeHeader, putVarint, stamp, varintSize } from '../../src/transport/kafka/record-batch.ts';
import { RecordCursor, readBatches } from '../../src/transport/kafka/record-reader.ts';
import { splitBatch } from '../../src/transport/kafka/split.ts';

// kafkajs decodes independently of us; it exports its decoder to nobody, so it is taken from its source.
const require = createRequire(import.meta.url);
type KafkajsRecord = { offset: string; key: Buffer | null; value: Buffer | null; headers: Record<string, Buffer> };
const KafkajsDecoder = require('kafkajs/src/protocol/decoder') as new (bytes: Buffer) => object;
const decodeWithKafkajs = require('kafkajs/src/protocol/recordBatch/v0/decoder') as (
  decoder: object,
) => Promise<{ records: KafkajsRecord[]; producerId: string; producerEpoch: number; firstSequence: number }>;
const kafkajsPartitioner = require('kafkajs/src/producer/partitioners/default/murmur2') as (key: Buffer) => number;

interface Input {
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: readonly (readonly [string, string])[];
}

const bytes = fc.oneof(
  fc.uint8Array({ maxLength: 80 }),
  // Around the lengths at which a varint grows: 64, 8192.
  fc.integer({ min: 55, max: 70 }).map((n) => new Uint8Array(n).fill(7)),
  fc.integer({ min: 8180, max: 8200 }).map((n) => new Uint8Array(n).fill(9)),
  fc.integer({ min: 30, max: 50_000 }).map((n) => new Uint8Array(n).fill(5)),
);
// Prefixed, since kafkajs keeps headers in a plain object and stumbles over names such as valueOf.
const headerName = fc.string({ maxLength: 30 }).map((name) => `h-${name}`);
const record: fc.Arbitrary<Input> = fc.record({
  key: fc.option(bytes, { nil: null }),
  value: fc.option(bytes, { nil: null }),
  headers: fc.uniqueArray(fc.tuple(headerName, fc.string({ maxLength: 70 })), {
    maxLength: 4,
    selector: ([name]) => name,
  }),
});

function write(encoder: BatchEncoder, { key, value, headers }: Input): void {
  const keyBytes = Buffer.from(key ?? []);
  encoder.begin(keyBytes, 0, key === null ? -1 : keyBytes.length);
  if (value === null) encoder.nullValue();
  else {
    encoder.beginValue();
    encoder.out.push(value);
    encoder.endValue();
  }
  encoder.headers(headers.length);
  for (const [name, text] of headers) encoder.out.push(encodeHeader(name, text));
  encoder.end();
}

function encode(records: readonly Input[]): Buffer {
  const encoder = new BatchEncoder();
  for (const item of records) write(encoder, item);
  encoder.finish(1_700_000_000_000);
  stamp(encoder.out.bytes, encoder.out.length, 4711n, 3, 17);
  return Buffer.from(encoder.out.bytes.subarray(0, encoder.out.length));
}

/** Comparing long typed arrays element by element takes seconds; comparing their hex does not. */
function flat(records: readonly Input[]): string[] {
  const hex = (value: Uint8Array | null) => (value ? Buffer.from(value).toString('hex') : 'null');
  return records.map(({ key, value, headers }) => `${hex(key)} ${hex(value)} ${JSON.stringify(headers)}`);
}

function readBack(batch: Buffer): { offset: bigint; input: Input }[] {
  const cursor = new RecordCursor();
  const slice = (at: number, end: number) => (end < 0 ? null : new Uint8Array(cursor.bytes.subarray(at, end)));
  const text = (at: number, end: number) => cursor.bytes.toString('utf8', at, end);
  const found: { offset: bigint; input: Input }[] = [];
  for (const fetched of readBatches(batch)) {
    cursor.open(fetched);
    while (cursor.next()) {
      const headers: [string, string][] = [];
      cursor.eachHeader((nameAt, nameEnd, valueAt, valueEnd) => {
        headers.push([text(nameAt, nameEnd), text(valueAt, valueEnd)]);
      });
      const input = { key: slice(cursor.keyAt, cursor.keyEnd), value: slice(cursor.valueAt, cursor.valueEnd), headers };
      found.push({ offset: cursor.offset, input });
    }
  }
  return found;
}

describe('record batch', () => {
  it('is read back by our own reader, record for record', () => {
    fc.assert(
      fc.property(fc.array(record, { minLength: 1, maxLength: 80 }), (records) => {
        const found = readBack(encode(records));
        expect(flat(found.map(({ input }) => input))).toEqual(flat(records));
        expect(found.map(({ offset }) => offset)).toEqual(records.map((_item, i) => BigInt(i)));
      }),
      { numRuns: 100 },
    );
  });

  it('is read by kafkajs, with the producer in its header', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(record, { minLength: 1, maxLength: 40 }), async (records) => {
        const batch = await decodeWithKafkajs(new KafkajsDecoder(encode(records)));
        expect(batch.records.map(({ key, value }) => [key && [...key], value && [...value]])).toEqual(
          records.map(({ key, value }) => [key && [...key], value && [...value]]),
        );
        const headers = batch.records.map((item) =>
          Object.entries(item.headers).map(([name, value]) => [name, value.toString()]),
        );
        const expected = records.map((item) => Object.entries(Object.fromEntries(item.headers)));
        expect(headers).toEqual(expected);
        expect([batch.producerId, batch.producerEpoch, batch.firstSequence]).toEqual(['4711', 3, 17]);
      }),
      { numRuns: 60 },
    );
  });

  it('carries no padded varints, which some clients refuse', () => {
    fc.assert(
      fc.property(fc.integer({ min: -1, max: 0x7fffffff }), (value) => {
        const out = Buffer.alloc(8);
        const end = putVarint(out, 0, value);
        expect(end).toBe(varintSize(value));
        expect(end === 1 || out[end - 1] !== 0).toBe(true);
      }),
    );
  });

  it('forgets a record that is rolled back', () => {
    const encoder = new BatchEncoder();
    const kept: Input = { key: Buffer.from('a'), value: Buffer.from('1'), headers: [] };
    write(encoder, kept);
    const { length, count } = encoder;
    write(encoder, { key: null, value: Buffer.alloc(9000), headers: [['x', 'y']] });
    encoder.rollback(length, count);
    write(encoder, kept);
    encoder.finish(0);
    stamp(encoder.out.bytes, encoder.out.length, 1n, 0, 0);
    expect(readBack(encoder.out.bytes.subarray(0, encoder.out.length))).toHaveLength(2);
  });

  it('leaves out what is cut off at the end, and refuses a wrong checksum', () => {
    const batch = encode([{ key: null, value: Buffer.from('abc'), headers: [] }]);
    expect(readBatches(Buffer.concat([batch, batch.subarray(0, batch.length - 1)]))).toHaveLength(1);
    expect(readBatches(batch.subarray(0, 60))).toHaveLength(0);
    batch[batch.length - 2]! ^= 1;
    expect(() => readBatches(batch)).toThrow(/wrong checksum/);
  });

  it('splits in two that hold the same records', () => {
    fc.assert(
      fc.property(fc.array(record, { minLength: 2, maxLength: 20 }), (records) => {
        const encoded = encode(records);
        const log = new PartitionLog('t', 0);
        const ticket = new Ticket(() => {});
        for (const item of records) {
          write(log.batch(), item);
          log.wrote(ticket);
        }
        const batch = log.next()!;
        log.take(batch, { id: 4711n, epoch: 3 });
        const parts = splitBatch(batch);
        for (const part of parts) stamp(part.bytes, part.length, 1n, 0, 0);
        const found = parts.flatMap((part) => readBack(part.bytes.subarray(0, part.length)).map(({ input }) => input));
        expect(flat(found)).toEqual(flat(readBack(encoded).map(({ input }) => input)));
        expect(parts.map(({ tickets }) => tickets.length)).toEqual([1, 1]);
      }),
      { numRuns: 50 },
    );
  });
});

describe('checksums and partitions', () => {
  it('computes CRC-32C', () => {
    // RFC 3720, B.4.
    expect(crc32c(Buffer.alloc(32), 0, 32)).toBe(0x8a9136aa);
    expect(crc32c(Buffer.alloc(32, 0xff), 0, 32)).toBe(0x62a8ab43);
    const text = Buffer.from('..123456789..');
    expect(crc32c(text, 2, 11)).toBe(0xe3069283);
  });

  it('computes the same with and without native code', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(20), (data, start) => {
        const from = Math.min(start, data.length);
        expect(slicedCrc32c(data, from, data.length)).toBe(crc32c(data, from, data.length));
      }),
    );
  });

  it("gives a key the partition of Kafka's default partitioner", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 50 }), fc.integer({ min: 1, max: 100 }), (key, partitions) => {
        const expected = kafkajsPartitioner(Buffer.from(key)) | 0;
        expect(murmur2(key, 0, key.length)).toBe(expected);
        expect(partitionOf(key, 0, key.length, partitions)).toBe((expected & 0x7fffffff) % partitions);
      }),
    );
  });
});
