import { rm, rmdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { WaltideError } from '../errors.ts';
import type { Lsn } from '../event/lsn.ts';
import { COPY_DATA } from '../postgres/copy-session.ts';
import { MESSAGE, ORIGIN, PgoutputError, PREPARE, RELATION, STREAM_STOP } from './pgoutput.ts';
import type { CommitPreparedMessage, OpenMessage, RelationMessage, StreamCommitMessage } from './pgoutput-messages.ts';
import type { PreparedHold } from './prepared-hold.ts';
import { TransactionLog } from './transaction-log.ts';
import { XLOG_DATA, XLOG_DATA_AT } from './xlog-data.ts';

export interface OpenTransactionsOptions {
  /** Memory over all open transactions; beyond it the largest goes to a file. */
  readonly memoryBytesMax: number;
  /** Where those files are: of this slot alone, so that whoever holds the slot may clear it. Null where none are asked for. */
  readonly folder: string | null;
  readonly hold: PreparedHold;
}

/** The newest Relation message of a table that holds for ordinary transactions, and when it came. */
export interface DescribedTable {
  readonly message: RelationMessage;
  readonly stamp: number;
}
/** By OID. */
type Described = ReadonlyMap<number, DescribedTable>;

/** A transaction that has not committed, or was not seen to. */
interface OpenTransaction {
  readonly log: TransactionLog;
  /** True where its changes came between Stream Start and Stream Stop, and carry xids. */
  readonly streamed: boolean;
  /** Where each subtransaction's first change stands in the log, in order. */
  readonly subs: { readonly xid: number; readonly offset: number }[];
  readonly subIndexes: Map<number, number>;
  lastXid: number;
  /** Where runs of logical messages end in the log. */
  readonly messageEnds: number[];
  /** Relation messages in the log: where they stand, and when they came. */
  readonly relations: { readonly oid: number; readonly offset: number; readonly stamp: number }[];
  /** What the server took for known when it began to come; empty for a streamed one, which describes all that it needs. */
  readonly described: Described;
}

/** Of several in a row only the end of the last matters. */
function noteMessage({ messageEnds }: OpenTransaction, offset: number, end: number): void {
  if (messageEnds.at(-1) === offset) messageEnds.pop();
  messageEnds.push(end);
}

/** One that has committed: to be delivered now, then closed. */
export interface CommittedTransaction {
  readonly xid: number;
  readonly commitLsn: Lsn;
  readonly endLsn: Lsn;
  /** Microseconds since 2000-01-01 UTC. */
  readonly commitTime: bigint;
  /** As for decodePgoutput. */
  readonly streamed: boolean;
  readonly parts: () => AsyncGenerator<Buffer>;
  /** What tables were before its own Relation messages. */
  readonly described: Described;
  /** When the last Relation message about this table came in it; 0 for never. */
  relationStamp(oid: number): number;
  close(): Promise<void>;
}

/**
 * Transactions in progress (streamed, protocol 2) and prepared ones (3), put together until they commit: interleaved, rolled back to
 * savepoints, bounded in memory. What they hold are the server's own messages, which are decoded when they commit: only
 * then can the catalog tell of tables and types that they made.
 */
export class OpenTransactions {
  readonly #options: OpenTransactionsOptions;
  readonly #open = new Map<number, OpenTransaction>();
  /** The one whose messages are coming. */
  #current: OpenTransaction | null = null;
  #stamp = 0;

  constructor(options: OpenTransactionsOptions) {
    this.#options = options;
  }

  /** True where the messages that come next belong to an open transaction: give them to `gather`. */
  get gathering(): boolean {
    return this.#current !== null;
  }

  get status(): { readonly transactions: number; readonly memoryBytes: number; readonly spilledBytes: number } {
    let memoryBytes = 0;
    let spilledBytes = 0;
    for (const { log } of this.#open.values()) {
      memoryBytes += log.memoryBytes;
      spilledBytes += log.fileBytes;
    }
    return { transactions: this.#open.size, memoryBytes, spilledBytes };
  }

  /** Numbers Relation messages in the order in which they come, over all transactions. */
  nextStamp(): number {
    return ++this.#stamp;
  }

  /**
   * Takes the XLogData messages from `at` on that belong to the current transaction. Returns the offset of the first that
   * does not: Stream Stop, Prepare, a keepalive, or a Relation message that others need as well (see `add`).
   */
  gather(frames: Buffer, at: number): number {
    const transaction = this.#current!;
    let end = at;
    while (end < frames.length && frames[end] === COPY_DATA && frames[end + 5] === XLOG_DATA) {
      const type = frames[end + XLOG_DATA_AT];
      const offset = transaction.log.length + end - at;
      if (transaction.streamed) {
        if (type === STREAM_STOP) break;
        if (type !== ORIGIN) this.#noteXid(transaction, frames.readUInt32BE(end + XLOG_DATA_AT + 1), offset);
        if (type === RELATION) this.#noteRelation(transaction, frames.readUInt32BE(end + XLOG_DATA_AT + 5), offset);
        else if (type === MESSAGE) noteMessage(transaction, offset, offset + 1 + frames.readUInt32BE(end + 1));
      } else if (type === PREPARE || type === RELATION) break;
      end += 1 + frames.readUInt32BE(end + 1);
    }
    transaction.log.append(frames, at, end);
    return end;
  }

  /** Takes one Relation message of a prepared transaction, which the server does not repeat for those that follow. */
  add(frames: Buffer, at: number, end: number, oid: number): void {
    const transaction = this.#current!;
    this.#noteRelation(transaction, oid, transaction.log.length);
    transaction.log.append(frames, at, end);
  }

  #noteXid(transaction: OpenTransaction, xid: number, offset: number): void {
    if (xid === transaction.lastXid) return;
    transaction.lastXid = xid;
    if (transaction.subIndexes.has(xid)) return;
    transaction.subIndexes.set(xid, transaction.subs.length);
    transaction.subs.push({ xid, offset });
  }

  #noteRelation(transaction: OpenTransaction, oid: number, offset: number): void {
    transaction.relations.push({ oid, offset, stamp: this.nextStamp() });
  }

  /**
   * What begins, goes on or ends, while `described` holds. Resolves with a transaction that has committed, for the caller to deliver before anything
   * else. Rejects with PgoutputError where the order of messages makes no sense, with SPILL, with STREAMING
   * where a transaction can only be read once it has ended.
   */
  async take(message: OpenMessage, described: Described = new Map()): Promise<CommittedTransaction | null> {
    switch (message.type) {
      case 'streamStart':
        await this.#start(message.xid, message.first, true);
        return null;
      case 'beginPrepare':
        await this.#start(message.xid, true, false, new Map(described));
        this.#options.hold.prepared(message.xid, message.prepareLsn);
        return null;
      case 'streamStop':
        if (!this.#current) throw new PgoutputError('a stream ended that has not begun');
        this.#current = null;
        return null;
      case 'prepare':
        // It comes alone where the server already knew that the transaction was rolled back (18).
        this.#current = null;
        return null;
      case 'streamPrepare':
        this.#options.hold.prepared(message.xid, message.prepareLsn);
        return null;
      case 'streamAbort':
        await this.#abort(message.xid, message.subxid);
        return null;
      case 'rollbackPrepared':
        this.#options.hold.rolledBack(message.xid);
        await this.#abort(message.xid, message.xid);
        return null;
      case 'streamCommit':
        return this.#commit(message);
      case 'commitPrepared':
        this.#options.hold.committed(message.xid, message.endLsn);
        // The server leaves out the PREPARE of a transaction without changes, and still says that it committed.
        if (!this.#open.has(message.xid)) await this.#begin(message.xid, false);
        return this.#commit(message);
    }
  }

  async #start(xid: number, first: boolean, streamed: boolean, described?: Described): Promise<void> {
    if (this.#current) throw new PgoutputError(`transaction ${xid} began inside another`);
    if (first) await this.#begin(xid, streamed, described);
    this.#current = this.#known(xid);
    this.#current.lastXid = xid;
  }

  async #begin(xid: number, streamed: boolean, described: Described = new Map()): Promise<void> {
    const { folder } = this.#options;
    if (folder === null) throw new PgoutputError('a transaction in progress came, and none was asked for');
    await this.#open.get(xid)?.log.remove();
    const log = new TransactionLog(folder);
    const empty = { subs: [], subIndexes: new Map(), messageEnds: [], relations: [], described };
    this.#open.set(xid, { log, streamed, lastXid: xid, ...empty });
  }

  #known(xid: number): OpenTransaction {
    const transaction = this.#open.get(xid);
    if (!transaction) throw new PgoutputError(`transaction ${xid} goes on, but has never begun`);
    return transaction;
  }

  /**
   * Changes from the first of a subtransaction on are its own, its children's, or of what was rolled back after it. Only logical
   * messages carry the xid of the whole (up to 18 at least): those right before it may be its own, or of what it is part of.
   */
  async #abort(xid: number, subxid: number): Promise<void> {
    const transaction = this.#open.get(xid);
    if (!transaction) return;
    if (subxid === xid) {
      this.#open.delete(xid);
      await transaction.log.remove();
      return;
    }
    const { log, subs, subIndexes, relations, messageEnds } = transaction;
    const index = subIndexes.get(subxid);
    // Where no change was sent of it, or it went with one that began before it, nothing is cut off.
    const offset = index === undefined ? log.length : subs[index]!.offset;
    if (index !== undefined) for (const sub of subs.splice(index)) subIndexes.delete(sub.xid);
    while ((relations.at(-1)?.offset ?? -1) >= offset) relations.pop();
    while ((messageEnds.at(-1) ?? -1) > offset) messageEnds.pop();
    if (messageEnds.at(-1) === offset)
      throw new WaltideError(
        'STREAMING',
        `transaction ${xid} in progress wrote logical messages and rolled back to a savepoint; PostgreSQL does not tell whether they were rolled back`,
        'It is read again when it has ended.',
      );
    await log.truncate(offset);
  }

  #commit(message: StreamCommitMessage | CommitPreparedMessage): CommittedTransaction {
    const { xid, commitLsn, endLsn, commitTime } = message;
    const transaction = this.#known(xid);
    return {
      ...{ xid, commitLsn, endLsn, commitTime, streamed: transaction.streamed },
      parts: () => transaction.log.parts(),
      described: transaction.described,
      relationStamp: (oid) => transaction.relations.findLast((relation) => relation.oid === oid)?.stamp ?? 0,
      close: async () => {
        this.#open.delete(xid);
        await transaction.log.remove();
      },
    };
  }

  /** Holds the memory bound: moves the largest transactions to files while there is more. Rejects with SPILL. */
  async spillBeyond(): Promise<void> {
    if (this.#open.size === 0) return;
    for (;;) {
      let bytes = 0;
      let largest: TransactionLog | null = null;
      for (const { log } of this.#open.values()) {
        bytes += log.memoryBytes;
        if (largest === null || log.memoryBytes > largest.memoryBytes) largest = log;
      }
      if (bytes <= this.#options.memoryBytesMax || largest === null) return;
      await largest.spill();
    }
  }

  /** Drops everything: the server sends it again. */
  async close(): Promise<void> {
    this.#current = null;
    for (const { log } of this.#open.values()) await log.remove();
    this.#open.clear();
    if (this.#options.folder !== null) await clearSpill(this.#options.folder);
  }
}

/**
 * Removes what is left of a slot's files, by those who hold the slot: no other process can be using them. Never
 * rejects: what cannot be removed is of no harm but its size.
 */
export async function clearSpill(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true }).catch(() => {});
  // Other slots may have theirs beside it.
  await rmdir(dirname(folder)).catch(() => {});
}
