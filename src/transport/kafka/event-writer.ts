import type { KafkaConfig } from '../../config/schema.ts';
import { ByteWriter } from '../../event/byte-writer.ts';
import { ChangeEvent, type Transaction } from '../../event/change-event.ts';
import type { EventCodec } from '../../event/codec.ts';
import { formatLsn } from '../../event/lsn.ts';
import { formatPosition } from '../../event/position.ts';
import { completeRow, type Row } from '../../event/row.ts';
import { formatSnapshot, HEADER } from './header.ts';
import { partitionOf } from './murmur2.ts';
import type { PartitionLog, Ticket } from './partition-log.ts';
import type { Producer } from './producer.ts';
import { type BatchEncoder, encodeHeader, HEADER_BYTES } from './record-batch.ts';

const SEQ_PREFIX = encodeHeader(HEADER.seq, '').subarray(0, -1);
const KEY_CHANGE = { d: encodeHeader(HEADER.keyChange, 'd'), c: encodeHeader(HEADER.keyChange, 'c') };
const LSN_AND_TRANSACTION = 2;

/** Where the events of one table (or the logical messages) go. */
export interface Route {
  readonly logs: readonly PartitionLog[];
  /** The encoded relation header; null for logical messages. */
  readonly relationHeader: Buffer | null;
}

/** What becomes of an event that Kafka cannot hold: returns = leave it out; throws = stop. */
export type OnOversize = (event: ChangeEvent, topic: string, key: string | null, bytes: number) => void;

/**
 * Turns events into records in the partitions' open batches:
 *   r, c, u              one record under the row's key
 *   u that changed the key   delete of the old key, tombstone, create of the new key
 *   d                    one record and a tombstone
 *   t, m about a table   one record without a key in every partition of the topic
 *   other m              one record under the codec's key, in partition 0
 * A row without a key goes to partition 0, which keeps such tables in order.
 */
export class EventWriter {
  readonly #producer: Producer;
  readonly #codec: EventCodec;
  readonly #onOversize: OnOversize;
  readonly #compacted: boolean;
  readonly #tombstones: boolean;
  readonly #recordBytesMax: number;
  readonly #batchBytesMax: number;
  readonly #keys = new ByteWriter(4096);
  #transaction: Transaction | null = null;
  #transactionHeaders: Buffer = Buffer.alloc(0);
  #ticket!: Ticket;
  #written = 0;
  /** The records are counted, and left out. */
  #countOnly = false;

  constructor(producer: Producer, codec: EventCodec, config: KafkaConfig, onOversize: OnOversize) {
    this.#producer = producer;
    this.#codec = codec;
    this.#onOversize = onOversize;
    this.#compacted = config.cleanupPolicy !== 'delete';
    this.#tombstones = config.tombstones;
    this.#recordBytesMax = config.maxRecordBytes;
    this.#batchBytesMax = Math.min(config.batchBytesMax, config.maxRecordBytes);
  }

  /** Writes all records of `event`, as part of `ticket`; returns how many, tombstones left out. Throws what `onOversize` throws. */
  write(event: ChangeEvent, route: Route, ticket: Ticket): number {
    this.#ticket = ticket;
    this.#written = 0;
    this.#records(event, route);
    return this.#written;
  }

  /** How many records `write` would write. */
  count(event: ChangeEvent, route: Route): number {
    this.#countOnly = true;
    this.#written = 0;
    this.#records(event, route);
    this.#countOnly = false;
    return this.#written;
  }

  #records(event: ChangeEvent, route: Route): void {
    const { logs } = route;
    const keys = this.#keys;
    keys.length = 0;
    if (event.op === 't' || (event.op === 'm' && event.relation !== null)) {
      const end = this.#noKey(event);
      for (const log of logs) this.#record(log, route, 0, end, event);
      return;
    }
    if (event.op === 'm') {
      this.#record(logs[0]!, route, 0, this.#codec.writeKey(keys, event, 'after') ? keys.length : -1, event);
      return;
    }
    const hasBefore = event.op === 'd' || (event.op === 'u' && event.before !== null);
    if (hasBefore && !this.#codec.writeKey(keys, event, 'before')) keys.length = 0;
    const split = keys.length;
    if (event.op === 'd' && split === 0) return void this.#record(logs[0]!, route, 0, this.#noKey(event), event);
    if (event.op === 'd') {
      this.#delete(pick(logs, keys.bytes, 0, split), route, split, event);
      return;
    }
    const keyed = this.#codec.writeKey(keys, event, 'after');
    const { bytes, length } = keys;
    const to = pick(logs, bytes, split, keyed ? length : split);
    if (split > 0 && keyed && bytes.compare(bytes, 0, split, split, length) !== 0) {
      this.#changeKey(pick(logs, bytes, 0, split), to, route, split, event);
    } else if (keyed) this.#record(to, route, split, length, event);
    else {
      keys.length = 0;
      this.#record(to, route, 0, this.#noKey(event), event);
    }
  }

  /**
   * The end of the key of a record that has none: -1 for null. A compacted topic refuses null keys, so there every
   * such record gets a key of its own, which compaction then never removes.
   */
  #noKey(event: ChangeEvent): number {
    if (!this.#compacted) return -1;
    this.#keys.push(Buffer.from(JSON.stringify({ __waltide: formatPosition(event.position) })));
    return this.#keys.length;
  }

  #delete(log: PartitionLog, route: Route, keyEnd: number, event: ChangeEvent): void {
    if (!this.#record(log, route, 0, keyEnd, event)) return;
    if (this.#tombstones) this.#tombstone(log, 0, keyEnd);
  }

  #changeKey(from: PartitionLog, to: PartitionLog, route: Route, split: number, event: ChangeEvent): void {
    const { length } = this.#keys;
    const together = from === to;
    if (!this.#record(from, route, 0, split, event, 'd', together)) return;
    if (this.#tombstones) this.#tombstone(from, 0, split);
    this.#record(to, route, split, length, withOldValues(event), 'c', together);
  }

  #tombstone(log: PartitionLog, keyAt: number, keyEnd: number): void {
    if (this.#countOnly) return;
    if (log.batch().length + (keyEnd - keyAt) + 32 > this.#batchBytesMax) log.seal();
    const batch = log.batch();
    batch.begin(this.#keys.bytes, keyAt, keyEnd);
    batch.nullValue();
    batch.headers(0);
    batch.end();
    this.#producer.wrote(log, this.#ticket);
  }

  /** False where the record was too large and left out. */
  #record(
    log: PartitionLog,
    route: Route,
    keyAt: number,
    keyEnd: number,
    event: ChangeEvent,
    as?: 'c' | 'd',
    together = false,
  ): boolean {
    for (;;) {
      const batch = log.batch();
      const { length, count } = batch;
      batch.begin(this.#keys.bytes, keyAt, keyEnd);
      batch.beginValue();
      this.#codec.writeValue(batch.out, event, as);
      batch.endValue();
      this.#headers(batch, event, route, as, together);
      batch.end();
      const size = batch.length;
      if (this.#countOnly) {
        batch.rollback(length, count);
        const fits = size - length <= this.#recordBytesMax - HEADER_BYTES;
        if (fits) this.#written++;
        return fits;
      }
      if (size <= this.#batchBytesMax || (count === 0 && size <= this.#recordBytesMax)) {
        this.#written++;
        this.#producer.wrote(log, this.#ticket);
        return true;
      }
      batch.rollback(length, count);
      if (count === 0) {
        const key = keyEnd < 0 ? null : this.#keys.bytes.toString('utf8', keyAt, keyEnd);
        this.#onOversize(event, log.topic, key, size);
        return false;
      }
      // It did not fit behind the others: they go as they are, and this one is written again into a new batch.
      log.seal();
    }
  }

  #headers(batch: BatchEncoder, event: ChangeEvent, route: Route, as: 'c' | 'd' | undefined, together: boolean): void {
    const { out } = batch;
    if (event.transaction !== this.#transaction) this.#remember(event.transaction);
    const { relationHeader } = route;
    const changed = event.op === 'u' && as !== 'd' ? unchangedColumns(event.after!) : '';
    const count = LSN_AND_TRANSACTION + 1 + (relationHeader ? 1 : 0) + (changed ? 1 : 0) + (together ? 1 : 0);
    batch.headers(count);
    const fixed = this.#transactionHeaders;
    const bytes = out.reserve(fixed.length + SEQ_PREFIX.length + 16 + (relationHeader?.length ?? 0));
    let at = out.length;
    at = put(fixed, bytes, at);
    if (relationHeader) at = put(relationHeader, bytes, at);
    at = put(SEQ_PREFIX, bytes, at);
    at = putDecimal(bytes, at, event.seq);
    out.length = at;
    if (changed) out.push(encodeHeader(HEADER.unchanged, changed));
    if (together) out.push(KEY_CHANGE[as === 'd' ? 'd' : 'c']);
  }

  #remember(transaction: Transaction): void {
    const { xid, commitLsn, commitTimeUs, snapshot, origin } = transaction;
    this.#transaction = transaction;
    this.#transactionHeaders = Buffer.concat([
      encodeHeader(HEADER.lsn, formatLsn(commitLsn)),
      encodeHeader(HEADER.transaction, `${xid},${commitTimeUs},${formatSnapshot(snapshot)},${origin ?? ''}`),
    ]);
  }
}

/** Under its new key a row is new to another partition: what the WAL calls unchanged is not known there. */
function withOldValues(event: ChangeEvent): ChangeEvent {
  const { op, transaction, seq, tableSeq, lsn, relation, before, after } = event;
  if (relation?.replicaIdentity !== 'f' || !before || !after || unchangedColumns(after) === '') return event;
  return new ChangeEvent(op, transaction, seq, tableSeq, lsn, relation, before, completeRow(after, before));
}

function pick(logs: readonly PartitionLog[], key: Buffer, start: number, end: number): PartitionLog {
  return logs.length === 1 || end === start ? logs[0]! : logs[partitionOf(key, start, end, logs.length)]!;
}

function unchangedColumns(row: Row): string {
  const columns = row.relation.columns.length;
  let list = '';
  for (let i = 0; i < columns; i++) if (row.isUnchanged(i)) list += list ? `,${i}` : i;
  return list;
}

/** A few dozen bytes: a loop is faster than a call into native code. */
function put(source: Buffer, bytes: Buffer, at: number): number {
  for (let i = 0; i < source.length; i++) bytes[at++] = source[i]!;
  return at;
}

/** A header's value: length as a varint (one byte up to 63), then the digits. */
function putDecimal(bytes: Buffer, at: number, value: number): number {
  let digits = 1;
  for (let rest = value; rest > 9; rest = Math.floor(rest / 10)) digits++;
  bytes[at] = digits << 1;
  const end = at + 1 + digits;
  let rest = value;
  for (let i = end - 1; i > at; i--) {
    bytes[i] = 48 + (rest % 10);
    rest = Math.floor(rest / 10);
  }
  return end;
}
