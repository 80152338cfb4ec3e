import type { Batch } from '../event/batch.ts';
import { ChangeEvent, isAfter, SCHEMA_MESSAGE, type Transaction } from '../event/change-event.ts';
import type { Lsn } from '../event/lsn.ts';
import { type Position, START } from '../event/position.ts';
import type { Relation } from '../event/relation.ts';
import { Row } from '../event/row.ts';
import type { SchemaChange } from '../event/schema-change.ts';
import { DDL_PREFIX } from './ddl.ts';
import { decodePgoutput, PgoutputError } from './pgoutput.ts';
import type {
  DeleteMessage,
  InsertMessage,
  LogicalDecodingMessage,
  OpenMessage,
  RelationMessage,
  TruncateMessage,
  UpdateMessage,
} from './pgoutput-messages.ts';
import type { Moment } from './schema-history.ts';

/** PostgreSQL counts from 2000-01-01, Unix from 1970-01-01: the difference in microseconds. */
const POSTGRES_EPOCH_US = 946_684_800_000_000n;

/** Messages with this prefix are Waltide's own heartbeats: they move the position and are no events. */
export const HEARTBEAT_PREFIX = 'waltide.heartbeat';

/** What the assembler cannot see to by itself. */
export type Told = RelationMessage | LogicalDecodingMessage | OpenMessage;

interface Relations {
  /** Of a change whose transaction commits at `commitLsn`. */
  get(oid: number, commitLsn: Lsn): Relation | null | undefined;
}

/**
 * From decoded messages to events in delivery order, and from those to batches. Knows where each event stands in its
 * transaction. Transactions come here whole and one after another: those in progress are put together before
 * (open-transactions.ts), so that numbers do not depend on how the server sent them.
 */
export class Assembler {
  readonly #relations: Relations;
  #transaction: Transaction | null = null;
  #seq = 0;
  #tableSeqs = new Map<number, number>();
  #events: ChangeEvent[] = [];
  /** How many of `#events` belong to transactions that have ended. */
  #whole = 0;
  #commitEndLsn: Lsn | null = null;
  /** Taken in up to here: what a reconnected server sends again is dropped. */
  #seen: Position;
  /** Handed out up to here by `take`. What was taken in after it is lost with this assembler, and must come again. */
  #handedOut: Position;

  constructor(relations: Relations, handedOut: Position = START) {
    this.#relations = relations;
    this.#seen = handedOut;
    this.#handedOut = handedOut;
  }

  get handedOut(): Position {
    return this.#handedOut;
  }

  /**
   * Takes one pgoutput message at `at`, ending at `end`, of a change with LSN `lsn`. Returns what the caller must take in
   * before the next call, else null: a Relation message, one of the capture trigger, or the beginning or end of an open
   * transaction. `streamed` as for decodePgoutput.
   */
  push(bytes: Buffer, at: number, end: number, lsn: Lsn, streamed = false): Told | null {
    const message = decodePgoutput(bytes, at, end, streamed);
    switch (message.type) {
      case 'insert':
      case 'update':
      case 'delete':
        this.#change(message, bytes, lsn);
        return null;
      case 'begin':
        this.begin(message.xid, message.finalLsn, message.commitTime);
        return null;
      case 'commit':
        this.commit(message.endLsn);
        return null;
      case 'origin':
        this.#transaction = { ...this.#current(), origin: message.name };
        return null;
      case 'truncate':
        this.#truncate(message, lsn);
        return null;
      case 'message':
        this.#message(message, lsn);
        return message.prefix === DDL_PREFIX && message.transactional ? message : null;
      case 'type':
        return null;
      default:
        return message;
    }
  }

  /** What is pushed until `commit` belongs to this transaction. `commitTime` in microseconds since 2000-01-01. */
  begin(xid: number, commitLsn: Lsn, commitTime: bigint): void {
    if (this.#transaction !== null) throw new PgoutputError('a transaction began inside another');
    const commitTimeUs = commitTime + POSTGRES_EPOCH_US;
    this.#transaction = { xid, commitLsn, commitTimeUs, snapshot: null, origin: null };
    this.#seq = 0;
    this.#tableSeqs.clear();
  }

  commit(endLsn: Lsn): void {
    this.#transaction = null;
    this.#end(endLsn);
  }

  /** Where the last change stands. */
  get moment(): Moment {
    const { commitLsn, commitTimeUs } = this.#current();
    return { position: { commitLsn, seq: this.#seq }, commitTimeUs };
  }

  /** The capture trigger's message that `push` returned last means this change: an event in its place. */
  schemaChange(relation: Relation, change: SchemaChange, lsn: Lsn): void {
    const message = { prefix: SCHEMA_MESSAGE, content: Buffer.from(JSON.stringify(change)), transactional: true };
    const event = [
      'm',
      this.#current(),
      this.#seq,
      this.#nextOf(relation),
      lsn,
      relation,
      null,
      null,
      message,
    ] as const;
    this.#append(new ChangeEvent(...event));
  }

  #nextOf(relation: Relation): number {
    const next = (this.#tableSeqs.get(relation.oid) ?? 0) + 1;
    this.#tableSeqs.set(relation.oid, next);
    return next;
  }

  /** A keepalive outside a transaction: all before `walEnd` has been sent. */
  keepalive(walEnd: Lsn): void {
    if (this.#transaction === null && walEnd > this.#seen.commitLsn) this.#end(walEnd);
  }

  /**
   * What has come since the last call: whole transactions as one batch, then the beginning of one that has not ended.
   * `bytes` is what the events keep alive together.
   */
  take(bytes: number): Batch[] {
    const events = this.#events;
    const whole = this.#whole;
    const commitEndLsn = this.#commitEndLsn;
    this.#handedOut = this.#seen;
    if (events.length === 0 && commitEndLsn === null) return [];
    this.#events = [];
    this.#whole = 0;
    this.#commitEndLsn = null;
    const batches: Batch[] = [];
    const share = (count: number): number => (count === 0 ? 0 : Math.ceil((bytes * count) / events.length));
    if (commitEndLsn !== null)
      batches.push({
        events: whole === events.length ? events : events.slice(0, whole),
        bytes: share(whole),
        commitEndLsn,
      });
    const rest = events.length - whole;
    if (rest > 0)
      batches.push({ events: whole === 0 ? events : events.slice(whole), bytes: share(rest), commitEndLsn: null });
    return batches;
  }

  #end(lsn: Lsn): void {
    this.#commitEndLsn = lsn;
    this.#whole = this.#events.length;
    if (lsn > this.#seen.commitLsn) this.#seen = { commitLsn: lsn, seq: 0 };
  }

  #current(): Transaction {
    if (this.#transaction === null) throw new PgoutputError('a change came outside a transaction');
    return this.#transaction;
  }

  #change(message: InsertMessage | UpdateMessage | DeleteMessage, bytes: Buffer, lsn: Lsn): void {
    const relation = this.#relations.get(message.relationOid, this.#current().commitLsn);
    if (!relation) {
      if (relation === undefined) throw new PgoutputError(`relation ${message.relationOid} was never described`);
      this.#seq++;
      return;
    }
    const before = message.type !== 'insert' && message.oldAt >= 0 ? new Row(relation, bytes, message.oldAt) : null;
    const after = message.type !== 'delete' ? new Row(relation, bytes, message.newAt) : null;
    const op = message.type === 'insert' ? 'c' : message.type === 'update' ? 'u' : 'd';
    this.#emit(op, lsn, relation, before, after);
  }

  #truncate(message: TruncateMessage, lsn: Lsn): void {
    for (const oid of message.relationOids) {
      const relation = this.#relations.get(oid, this.#current().commitLsn);
      if (relation) this.#emit('t', lsn, relation, null, null);
      else if (relation === undefined) throw new PgoutputError(`relation ${oid} was never described`);
      else this.#seq++;
    }
  }

  #emit(op: 'c' | 'u' | 'd' | 't', lsn: Lsn, relation: Relation, before: Row | null, after: Row | null): void {
    const transaction = this.#current();
    const seq = ++this.#seq;
    this.#append(new ChangeEvent(op, transaction, seq, this.#nextOf(relation), lsn, relation, before, after));
  }

  #message(message: LogicalDecodingMessage, lsn: Lsn): void {
    const { prefix, content, transactional } = message;
    if (transactional) this.#seq++;
    if (prefix !== HEARTBEAT_PREFIX && prefix !== DDL_PREFIX) {
      const transaction = transactional
        ? this.#current()
        : { xid: 0, commitLsn: message.lsn, commitTimeUs: BigInt(Date.now()) * 1000n, snapshot: null, origin: null };
      const logical = { prefix, content, transactional };
      this.#append(new ChangeEvent('m', transaction, transactional ? this.#seq : 0, 0, lsn, null, null, null, logical));
    }
    // Its LSN is the end of its own record: everything committed before has been sent.
    if (!transactional) this.#end(message.lsn);
  }

  #append(event: ChangeEvent): void {
    const { transaction, seq } = event;
    if (!isAfter(event, this.#seen)) return;
    this.#seen = { commitLsn: transaction.commitLsn, seq };
    this.#events.push(event);
  }
}
