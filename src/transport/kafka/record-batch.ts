import { ByteWriter } from '../../event/byte-writer.ts';
import { crc32c } from './crc32c.ts';

/*
 * RecordBatch, version 2 (Kafka documentation, "Record Batch"):
 *   baseOffset: int64, batchLength: int32, partitionLeaderEpoch: int32, magic: int8 (2), crc: uint32,
 *   attributes: int16, lastOffsetDelta: int32, baseTimestamp: int64, maxTimestamp: int64, producerId: int64,
 *   producerEpoch: int16, baseSequence: int32, count: int32, records
 * Record:
 *   length: varint, attributes: int8, timestampDelta: varlong, offsetDelta: varint,
 *   keyLength: varint (-1 = null), key, valueLength: varint (-1 = null), value, headerCount: varint, headers
 * Header: keyLength: varint, key, valueLength: varint, value
 */
export const HEADER_BYTES = 61;
const CRC_AT = 17;
const CRC_FROM = 21;
export const TRANSACTIONAL = 0b10000;

/** Bytes that the zigzag varint of `value` takes. Lengths must be minimal: some clients (Sarama) refuse padded ones. */
export function varintSize(value: number): number {
  let rest = ((value << 1) ^ (value >> 31)) >>> 0;
  let size = 1;
  for (; rest > 127; rest >>>= 7) size++;
  return size;
}

/** Writes the zigzag varint of a signed 32-bit `value` at `at`, and returns where the next byte goes. */
export function putVarint(bytes: Uint8Array, at: number, value: number): number {
  let rest = ((value << 1) ^ (value >> 31)) >>> 0;
  for (; rest > 127; rest >>>= 7) bytes[at++] = (rest & 127) | 128;
  bytes[at++] = rest;
  return at;
}

/** One header, encoded for reuse in many records. */
export function encodeHeader(name: string, value: string): Buffer {
  const key = Buffer.from(name);
  const body = Buffer.from(value);
  const out = Buffer.alloc(10 + key.length + body.length);
  let at = putVarint(out, 0, key.length);
  at += key.copy(out, at);
  at = putVarint(out, at, body.length);
  at += body.copy(out, at);
  return out.subarray(0, at);
}

/**
 * One batch while it is written. The value goes straight into the batch's buffer: its length is a varint in front
 * of bytes whose number is not yet known, so room is left as wide as the last one was, and on a wrong guess the
 * bytes are moved by one or two.
 */
export class BatchEncoder {
  readonly out: ByteWriter;
  count = 0;
  #recordAt = 0;
  #valueAt = 0;
  #recordWidth = 2;
  #valueWidth = 2;

  constructor(out = new ByteWriter()) {
    this.out = out;
    out.length = 0;
    out.reserve(HEADER_BYTES);
    out.length = HEADER_BYTES;
  }

  /** Size of the batch as the broker will measure it. */
  get length(): number {
    return this.out.length;
  }

  /** Begins a record: `key` from `start` up to `end`; a null key where `end` is -1. */
  begin(key: Buffer, start: number, end: number): void {
    const { out } = this;
    const keyLength = end < 0 ? 0 : end - start;
    const bytes = out.reserve(keyLength + 32);
    this.#recordAt = out.length;
    let at = out.length + this.#recordWidth;
    bytes[at++] = 0; // attributes
    bytes[at++] = 0; // timestampDelta: all records of a batch carry the batch's time
    at = putVarint(bytes, at, this.count);
    at = putVarint(bytes, at, end < 0 ? -1 : keyLength);
    // Keys are short: a loop is faster than a call into native code.
    for (let i = start; i < end; i++) bytes[at++] = key[i]!;
    out.length = at;
  }

  /** A value follows: the caller appends it to `out`, then calls `endValue`. */
  beginValue(): void {
    this.#valueAt = this.out.length;
    this.out.reserve(5);
    this.out.length += this.#valueWidth;
  }

  endValue(): void {
    this.#valueWidth = this.#close(this.#valueAt, this.#valueWidth);
  }

  nullValue(): void {
    this.out.reserve(1)[this.out.length++] = 1;
  }

  /** The number of headers; the caller appends exactly so many, then calls `end`. */
  headers(count: number): void {
    const at = this.out.length;
    this.out.length = putVarint(this.out.reserve(5), at, count);
  }

  end(): void {
    this.#recordWidth = this.#close(this.#recordAt, this.#recordWidth);
    this.count++;
  }

  /** Forgets what was written from `length` on, where the batch held `count` records. */
  rollback(length: number, count: number): void {
    this.out.length = length;
    this.count = count;
  }

  /** Writes the batch's header, except for what `stamp` adds. Times are milliseconds since the Unix epoch. */
  finish(timestampMs: number): void {
    const { bytes, length } = this.out;
    bytes.fill(0, 0, HEADER_BYTES);
    bytes.writeInt32BE(length - 12, 8);
    bytes.writeInt32BE(-1, 12);
    bytes[16] = 2;
    bytes.writeInt32BE(this.count - 1, 23);
    bytes.writeBigInt64BE(BigInt(timestampMs), 27);
    bytes.writeBigInt64BE(BigInt(timestampMs), 35);
    bytes.writeInt32BE(this.count, 57);
  }

  /** Fills in the length in the room left at `at`; returns its width, the guess for the next one. */
  #close(at: number, width: number): number {
    const { out } = this;
    const size = out.length - at - width;
    const needed = varintSize(size);
    if (needed !== width) {
      out.reserve(5);
      out.bytes.copyWithin(at + needed, at + width, out.length);
      out.length += needed - width;
    }
    putVarint(out.bytes, at, size);
    return needed;
  }
}

/** Signs a finished batch of `length` bytes with the producer's number and sequence, and its checksum. */
export function stamp(
  bytes: Buffer,
  length: number,
  producerId: bigint,
  epoch: number,
  sequence: number,
  transactional = false,
): void {
  bytes.writeInt16BE(transactional ? TRANSACTIONAL : 0, 21);
  bytes.writeBigInt64BE(producerId, 43);
  bytes.writeInt16BE(epoch, 51);
  bytes.writeInt32BE(sequence, 53);
  bytes.writeUInt32BE(crc32c(bytes, CRC_FROM, length), CRC_AT);
}
