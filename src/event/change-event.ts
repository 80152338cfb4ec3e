import type { Lsn } from './lsn.ts';
import { formatPosition, type Position } from './position.ts';
import type { Relation } from './relation.ts';
import type { Row } from './row.ts';

/** c = insert, u = update, d = delete, r = read by a snapshot, t = truncate, m = logical message. Debezium's letters. */
export type Op = 'c' | 'u' | 'd' | 'r' | 't' | 'm';

/**
 * A run that reads existing rows of a table again. Its events are op t (it begins; a partial one has none), op r
 * (rows) and op m with prefix `waltide.snapshot` (it ends). What came before its beginning is replaced at its end.
 */
export interface Snapshot {
  readonly id: string;
  /**
   * initial: rows as of the slot's consistent point, each once, before anything is streamed. incremental: rows woven
   * into the stream, each as it is at that point of the stream; one may come twice. partial: as incremental, but the
   * rows refresh the table in place: without a beginning and an end; op d removes one that was asked for by its key and
   * is not there.
   */
  readonly kind: 'initial' | 'incremental' | 'partial';
  /** Names of the sinks that it is for; null for all. */
  readonly sinks: readonly string[] | null;
}

/** One source transaction, shared by its events. Rows of a snapshot have one that PostgreSQL never made. */
export interface Transaction {
  /** Unsigned 32-bit; 0 for a snapshot and for non-transactional messages. */
  readonly xid: number;
  readonly commitLsn: Lsn;
  /** Commit time in microseconds since the Unix epoch. */
  readonly commitTimeUs: bigint;
  /** Null for what was streamed. */
  readonly snapshot: Snapshot | null;
  /** Name of the replication origin, where the transaction was itself replicated; null otherwise. */
  readonly origin: string | null;
}

/** A message written by `pg_logical_emit_message`. */
export interface LogicalMessage {
  readonly prefix: string;
  readonly content: Buffer;
  readonly transactional: boolean;
}

/** Prefix of the message that ends a snapshot of its relation; content: a SnapshotEnd as JSON. */
export const SNAPSHOT_MESSAGE = 'waltide.snapshot';
/** Prefix of the message that tells of a schema change of its relation, which is the table as it is from here on. */
export const SCHEMA_MESSAGE = 'waltide.schema';

/** completed: the rows that came since the beginning are the table. cancelled: they are void, and what was before stays. */
export interface SnapshotEnd {
  readonly phase: 'completed' | 'cancelled';
}

/** What ends a snapshot, as the message of its op m event. */
export function snapshotEndMessage(end: SnapshotEnd): LogicalMessage {
  return { prefix: SNAPSHOT_MESSAGE, content: Buffer.from(JSON.stringify(end)), transactional: true };
}

/** How the event ends the snapshot of its transaction; null for every event that ends none. */
export function snapshotPhase(event: ChangeEvent): SnapshotEnd['phase'] | null {
  const { op, message, relation, transaction } = event;
  if (op !== 'm' || !relation || !transaction.snapshot || message?.prefix !== SNAPSHOT_MESSAGE) return null;
  return (JSON.parse(message.content.toString()) as SnapshotEnd).phase;
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
  /** Null exactly for op m about no table: what `pg_logical_emit_message` wrote. Our own messages are about one. */
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

/** True where the new row lacks values that the old one, whole under REPLICA IDENTITY FULL, does not bring. */
export function lacksValues({ relation, before, after }: ChangeEvent): boolean {
  return relation!.columns.some(
    (_, column) =>
      after!.isUnchanged(column) &&
      (before === null || relation!.replicaIdentity !== 'f' || before.isUnchanged(column)),
  );
}
