import type { ChangeEvent, Transaction } from '../../event/change-event.ts';
import { formatLsn } from '../../event/lsn.ts';
import type { Position } from '../../event/position.ts';
import { relationName } from '../../event/relation.ts';
import { HEADER } from './header.ts';
import type { PartitionLog, Ticket } from './partition-log.ts';
import type { Producer } from './producer.ts';
import { encodeHeader } from './record-batch.ts';

/** What the end of a source transaction says: how many records of each table it has, tombstones left out. */
export interface TransactionEnd {
  readonly status: 'END';
  readonly id: string;
  readonly event_count: number;
  readonly data_collections: readonly { readonly data_collection: string; readonly event_count: number }[];
  readonly ts_ms: number;
}

export interface TransactionBegin {
  readonly status: 'BEGIN';
  readonly id: string;
  readonly event_count: null;
  readonly data_collections: null;
  readonly ts_ms: number;
}

/** As in the field `transaction.id` of the records. */
export function transactionId({ xid, commitLsn }: Transaction): string {
  return `${xid}:${commitLsn}`;
}

/** True for a change of a source transaction, as opposed to rows of a snapshot and to messages. */
export function isMarked({ op, transaction, relation }: ChangeEvent): boolean {
  return transaction.snapshot === null && relation !== null && op !== 'm' && op !== 'r';
}

/**
 * Writes where source transactions begin and end, in the form of Debezium's transaction metadata, with our headers:
 * BEGIN stands at (commit LSN, 0), END at the position of the last change.
 */
export class TransactionMarks {
  readonly #producer: Producer;
  readonly #log: PartitionLog;
  readonly #batchBytesMax: number;
  #open: { transaction: Transaction; seq: number; total: number; tables: Map<string, number> } | null = null;

  constructor(producer: Producer, log: PartitionLog, batchBytesMax: number) {
    this.#producer = producer;
    this.#log = log;
    this.#batchBytesMax = batchBytesMax;
  }

  /** Notes that `event` became so many records. What lies at or before `written` is in the log already. */
  note(event: ChangeEvent, records: number, ticket: Ticket, written: Position | null): void {
    if (!isMarked(event)) return;
    const { transaction, seq } = event;
    if (this.#open?.transaction.commitLsn !== transaction.commitLsn) {
      this.end(ticket, written);
      this.#open = { transaction, seq, total: 0, tables: new Map() };
      if (!written || written.commitLsn < transaction.commitLsn) this.#begin(transaction, ticket);
    }
    const open = this.#open!;
    const table = relationName(event.relation!);
    open.seq = seq;
    open.total += records;
    open.tables.set(table, (open.tables.get(table) ?? 0) + records);
  }

  /** The transaction under way, if any, has ended. */
  end(ticket: Ticket, written: Position | null): void {
    const open = this.#open;
    if (!open) return;
    this.#open = null;
    const { transaction, total, tables } = open;
    if (written && written.commitLsn > transaction.commitLsn) return;
    const end: TransactionEnd = {
      status: 'END',
      id: transactionId(transaction),
      event_count: total,
      data_collections: [...tables].map(([data_collection, event_count]) => ({ data_collection, event_count })),
      ts_ms: Number(transaction.commitTimeUs / 1000n),
    };
    this.#record(end, transaction, open.seq, ticket);
  }

  #begin(transaction: Transaction, ticket: Ticket): void {
    const begin: TransactionBegin = {
      status: 'BEGIN',
      id: transactionId(transaction),
      event_count: null,
      data_collections: null,
      ts_ms: Number(transaction.commitTimeUs / 1000n),
    };
    this.#record(begin, transaction, 0, ticket);
  }

  #record(mark: TransactionBegin | TransactionEnd, transaction: Transaction, seq: number, ticket: Ticket): void {
    const key = Buffer.from(JSON.stringify({ id: mark.id }));
    const value = Buffer.from(JSON.stringify(mark));
    const { xid, commitLsn, commitTimeUs, origin } = transaction;
    const headers = [
      encodeHeader(HEADER.lsn, formatLsn(commitLsn)),
      encodeHeader(HEADER.transaction, `${xid},${commitTimeUs},0,${origin ?? ''}`),
      encodeHeader(HEADER.seq, String(seq)),
    ];
    if (this.#log.batch().length + key.length + value.length + 200 > this.#batchBytesMax) this.#log.seal();
    const batch = this.#log.batch();
    batch.begin(key, 0, key.length);
    batch.beginValue();
    batch.out.push(value);
    batch.endValue();
    batch.headers(headers.length);
    for (const header of headers) batch.out.push(header);
    batch.end();
    this.#producer.wrote(this.#log, ticket);
  }
}
