import { compressionsAlgorithmsByBitmask } from '@platformatic/kafka';
import { WaltideError } from '../../errors.ts';
import { crc32c } from './crc32c.ts';
import type { AbortedTransaction } from './fetch.ts';
import { HEADER_BYTES, TRANSACTIONAL } from './record-batch.ts';

const COMPRESSION = 0b111;
const CONTROL = 0b100000;

/** One record batch as fetched. `bytes` is a slice of the fetch response and keeps all of it alive. */
export interface FetchedBatch {
  readonly baseOffset: bigint;
  /** The offset after the last record, also where compaction has removed that record. */
  readonly nextOffset: bigint;
  readonly count: number;
  /** The records, decompressed. */
  readonly bytes: Buffer;
}

/**
 * Splits the records of one partition in a fetch response into its batches. A batch cut off at the end (the broker
 * sends whole bytes up to a limit) is left out. Control batches and those of aborted Kafka transactions come with no
 * records, so that offsets pass them. Throws TRANSPORT where a checksum or the format is wrong.
 */
export function readBatches(records: Buffer, aborted: readonly AbortedTransaction[] = []): FetchedBatch[] {
  const batches: FetchedBatch[] = [];
  const filter = aborted.length > 0 ? new AbortedFilter(aborted) : null;
  let at = 0;
  while (at + HEADER_BYTES <= records.length) {
    const end = at + 12 + records.readInt32BE(at + 8);
    if (end > records.length) break;
    if (records[at + 16] !== 2) throw corrupt(`message format ${records[at + 16]} (Kafka before 0.11)`);
    if (crc32c(records, at + 21, end) !== records.readUInt32BE(at + 17)) throw corrupt('a wrong checksum');
    const attributes = records.readInt16BE(at + 21);
    const baseOffset = records.readBigInt64BE(at);
    const control = (attributes & CONTROL) !== 0;
    const producerId = records.readBigInt64BE(at + 43);
    const transactional = (attributes & TRANSACTIONAL) !== 0;
    const hidden = control || (transactional && filter?.hides(producerId, baseOffset) === true);
    if (control) filter?.ended(producerId, baseOffset);
    batches.push({
      baseOffset,
      nextOffset: baseOffset + BigInt(records.readInt32BE(at + 23)) + 1n,
      count: hidden ? 0 : records.readInt32BE(at + 57),
      bytes: hidden ? Buffer.alloc(0) : decompress(records.subarray(at + HEADER_BYTES, end), attributes & COMPRESSION),
    });
    at = end;
  }
  return batches;
}

/**
 * Which transactional batches are void: those of a producer from the first offset of an aborted transaction up to the
 * control record that ends it. A control record of a producer always ends its one open transaction.
 */
class AbortedFilter {
  readonly #waiting: AbortedTransaction[];

  constructor(aborted: readonly AbortedTransaction[]) {
    this.#waiting = [...aborted].sort((a, b) => (a.firstOffset < b.firstOffset ? -1 : 1));
  }

  hides(producerId: bigint, offset: bigint): boolean {
    return this.#waiting.some((item) => item.producerId === producerId && item.firstOffset <= offset);
  }

  ended(producerId: bigint, offset: bigint): void {
    const index = this.#waiting.findIndex((item) => item.producerId === producerId && item.firstOffset <= offset);
    if (index >= 0) this.#waiting.splice(index, 1);
  }
}

/** We write uncompressed, but a topic's `compression.type` can make the broker compress. */
function decompress(bytes: Buffer, kind: number): Buffer {
  if (kind === 0) return bytes;
  const algorithm = compressionsAlgorithmsByBitmask[kind];
  if (algorithm?.available !== true)
    throw corrupt(`compression ${kind === 4 ? 'zstd' : kind}, unknown to this Node version`);
  return algorithm.decompressSync(bytes);
}

function corrupt(what: string): WaltideError {
  return new WaltideError(
    'TRANSPORT',
    `Kafka returned a record batch with ${what}`,
    'Check the topic (compression.type, other writers) with kafka-dump-log; Waltide must be the only writer of its topics.',
  );
}

/** Walks over the records of a batch without an object per record: fields describe the record that `next` stopped at. */
export class RecordCursor {
  bytes: Buffer = Buffer.alloc(0);
  offset = 0n;
  /** Where key, value and headers are; an end of -1 means null. */
  keyAt = 0;
  keyEnd = -1;
  valueAt = 0;
  valueEnd = -1;
  headerCount = 0;
  headersAt = 0;
  /** Where the record, and with it its headers, ends. */
  recordEnd = 0;
  #baseOffset = 0n;
  #left = 0;
  #at = 0;
  #varintEnd = 0;

  open(batch: FetchedBatch): void {
    this.bytes = batch.bytes;
    this.#baseOffset = batch.baseOffset;
    this.#left = batch.count;
    this.#at = 0;
  }

  /** Moves to the next record; false where there is none. */
  next(): boolean {
    if (this.#left === 0) return false;
    this.#left--;
    const size = this.#varint(this.#at);
    const start = this.#varintEnd;
    if (size < 0 || start + size > this.bytes.length) throw corrupt('a record longer than its batch');
    this.#varlongEnd(start + 1);
    this.offset = this.#baseOffset + BigInt(this.#varint(this.#varintEnd));
    const keyLength = this.#varint(this.#varintEnd);
    this.keyAt = this.#varintEnd;
    this.keyEnd = keyLength < 0 ? -1 : this.keyAt + keyLength;
    const valueLength = this.#varint(keyLength < 0 ? this.keyAt : this.keyEnd);
    this.valueAt = this.#varintEnd;
    this.valueEnd = valueLength < 0 ? -1 : this.valueAt + valueLength;
    this.headerCount = this.#varint(valueLength < 0 ? this.valueAt : this.valueEnd);
    this.headersAt = this.#varintEnd;
    this.#at = start + size;
    this.recordEnd = this.#at;
    return true;
  }

  /** Calls `visit` with the byte ranges of every header's name and value (value end -1 = null). */
  eachHeader(visit: (nameAt: number, nameEnd: number, valueAt: number, valueEnd: number) => void): void {
    let at = this.headersAt;
    for (let i = 0; i < this.headerCount; i++) {
      const nameLength = this.#varint(at);
      const nameAt = this.#varintEnd;
      const valueLength = this.#varint(nameAt + nameLength);
      const valueAt = this.#varintEnd;
      at = valueLength < 0 ? valueAt : valueAt + valueLength;
      visit(nameAt, nameAt + nameLength, valueAt, valueLength < 0 ? -1 : at);
    }
  }

  #varint(at: number): number {
    let value = 0;
    let shift = 0;
    let byte = 128;
    while (byte > 127) {
      if (shift > 28) throw corrupt('a length of more than five bytes');
      byte = this.bytes[at++] ?? 0;
      value |= (byte & 127) << shift;
      shift += 7;
    }
    this.#varintEnd = at;
    return (value >>> 1) ^ -(value & 1);
  }

  /** Skips a varlong (up to ten bytes), whose value nobody needs here. */
  #varlongEnd(at: number): void {
    while ((this.bytes[at] ?? 0) > 127) at++;
    this.#varintEnd = at + 1;
  }
}
