import type { Lsn } from './lsn.ts';
import { formatPosition, type Position } from './position.ts';
import type { Relation } from './relation.ts';
import type { Row } from './row.ts';

/** c = insert, u = update, d = delete, r = read by a snapshot, t = truncate, m = logical message. Debezium's letters. */
export type Op = 'c' | 'u' | 'd' | 'r' | 't' | 'm';

/** One source transaction, shared by its events. A snapshot is one transaction just before its consistent point. */
export interface Transaction {
  /** Unsigned 32-bit; 0 for a snapshot and for non-transactional messages. */
  readonly xid: number;
  readonly commitLsn: Lsn;
  /** Commit time in microseconds since the Unix epoch. */
  readonly commitTimeUs: bigint;
  readonly snapshot: boolean;
  /** Name of the replication origin, where the transaction was itself replicated; null otherwise. */
  readonly origin: string | null;
}

/** A message written by `pg_logical_emit_message`. */
export interface LogicalMessage {
  readonly prefix: string;
  readonly content: Buffer;
  readonly transactional: boolean;
}

/** One change of one row, or of one table (truncate), or of none (message). Immutable once built. */
export class ChangeEvent {
  readonly op: Op;
  readonly transaction: Transaction;
  /** Number of the change in its transaction, from 1; 0 for a non-transactional message. */
  readonly seq: number;
  /** Number of the change among those of its own table in the transaction, from 1. */
  readonly tableSeq: number;
  /** LSN of the change itself: informative only, never an order. */
  readonly lsn: Lsn;
  /** Null exactly for op m. */
  readonly relation: Relation | null;
  /**
   * The old row where the WAL has it: whole under REPLICA IDENTITY FULL, else only the key's columns (others
   * NULL), for every delete and for an update that changed the key.
   */
  readonly before: Row | null;
  readonly after: Row | null;
  readonly message: LogicalMessage | null;

  constructor(
    op: Op,
    transaction: Transaction,
    seq: number,
    tableSeq: number,
    lsn: Lsn,
    relation: Relation | null,
    before: Row | null,
    after: Row | null,
    message: LogicalMessage | null = null,
  ) {
    this.op = op;
    this.transaction = transaction;
    this.seq = seq;
    this.tableSeq = tableSeq;
    this.lsn = lsn;
    this.relation = relation;
    this.before = before;
    this.after = after;
    this.message = message;
  }

  get position(): Position {
    return { commitLsn: this.transaction.commitLsn, seq: this.seq };
  }

  toString(): string {
    const where = this.relation ? `${this.relation.schema}.${this.relation.table}` : (this.message?.prefix ?? '');
    return `${this.op} ${where} at ${formatPosition(this.position)}`;
  }
}

/** True where `event` comes after `position`, that is: a sink at `position` has not seen it. */
export function isAfter(event: ChangeEvent, position: Position): boolean {
  const { commitLsn } = event.transaction;
  return commitLsn === position.commitLsn ? event.seq > position.seq : commitLsn > position.commitLsn;
}
