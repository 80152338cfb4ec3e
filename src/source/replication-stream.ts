import type pg from 'pg';
import type { Batch } from '../event/batch.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import { failpoint } from '../failpoint.ts';
import { COPY_DATA, CopySession } from '../postgres/copy-session.ts';
import type { Assembler, Told } from './assembler.ts';
import { readDdl } from './ddl.ts';
import type { CommittedTransaction, DescribedTable, OpenTransactions } from './open-transactions.ts';
import { PgoutputError } from './pgoutput.ts';
import type { LogicalDecodingMessage, RelationMessage } from './pgoutput-messages.ts';
import type { PreparedHold } from './prepared-hold.ts';
import { type Protocol, pluginOptions } from './protocol.ts';
import type { RelationCache } from './relations.ts';
import type { SchemaHistory } from './schema-history.ts';
import { KEEPALIVE, STANDBY_STATUS, XLOG_DATA, XLOG_DATA_AT } from './xlog-data.ts';

const POSTGRES_EPOCH_MS = 946_684_800_000;

/** Well below the smallest sensible wal_sender_timeout, and cheap. */
const STATUS_INTERVAL_MS = 1000;
/** A server that has been silent for this long is asked for a sign of life: from then on silence means something (liveness.ts). */
const PROBE_AFTER_MS = 5000;

export interface ReplicationStreamOptions {
  readonly slot: string;
  /** Transactions that committed before it are not sent. */
  readonly from: Lsn;
  /** Where the server begins to decode: what lies between it and `from` it reads once more, and does not send. */
  readonly restart: Lsn;
  /** What the server has been told it may forget; at most `from`. */
  readonly acknowledged: Lsn;
  readonly publications: readonly string[];
  readonly protocol: Protocol;
  /** Empty; closed with the stream. */
  readonly open: OpenTransactions;
  readonly hold: PreparedHold;
  readonly assembler: Assembler;
  readonly relations: RelationCache;
  /** Null where nothing is to be recorded. */
  readonly history: SchemaHistory | null;
}

/** One START_REPLICATION: from the bytes of a walsender to batches, and status replies on a timer. Ends with its connection. */
export class ReplicationStream {
  readonly #session: CopySession;
  readonly #assembler: Assembler;
  readonly #relations: RelationCache;
  readonly #history: SchemaHistory | null;
  readonly #hold: PreparedHold;
  readonly #open: OpenTransactions;
  readonly #described = new Map<number, DescribedTable>();
  readonly #timer: NodeJS.Timeout;
  readonly #from: Lsn;
  #decodedLsn: Lsn;
  /** Offset of the last XLogData of this read; -1 for none. */
  #lastDataAt = -1;
  /** What is durable downstream. Told to the server as written, flushed and applied, as far as prepared transactions allow. */
  acknowledged: Lsn;
  /** End of the server's WAL, as far as it has told. */
  serverLsn: Lsn = 0n;
  /** When the last whole message came, in Unix milliseconds; 0 for never. */
  lastMessageAt = 0;

  private constructor(session: CopySession, options: ReplicationStreamOptions) {
    this.#session = session;
    this.#assembler = options.assembler;
    this.#relations = options.relations;
    this.#history = options.history;
    this.#hold = options.hold;
    this.#open = options.open;
    this.acknowledged = options.acknowledged;
    this.#from = options.from;
    this.#decodedLsn = options.restart;
    // On a timer, never behind a paused read: a slow sink must not look like a dead client.
    this.#timer = setInterval(() => this.#tick(), STATUS_INTERVAL_MS);
  }

  /** Rejects with the server's refusal; `replication` is closed then. */
  static async start(replication: pg.Client, options: ReplicationStreamOptions): Promise<ReplicationStream> {
    const plugin = pluginOptions(options.protocol, options.publications);
    const command = `START_REPLICATION SLOT "${options.slot}" LOGICAL ${formatLsn(options.from)} (${plugin})`;
    return new ReplicationStream(await CopySession.start(replication, command), options);
  }

  /**
   * How far the server is with what lies before `from`, which it decodes and does not send; null once it is there. With much
   * WAL held back that takes minutes, in which nothing comes but its answers.
   */
  get decoding(): { readonly lsn: Lsn; readonly until: Lsn } | null {
    return this.#decodedLsn < this.#from ? { lsn: this.#decodedLsn, until: this.#from } : null;
  }

  /** Until `signal` aborts (the connection stays, for acknowledging) or the server ends the stream. */
  async *batches(signal: AbortSignal): AsyncGenerator<Batch> {
    // Ends a read that waits for an idle server.
    const stop = (): void => this.#session.stopReading();
    signal.addEventListener('abort', stop, { once: true });
    try {
      for (;;) {
        const frames = await this.#session.read();
        if (!frames || signal.aborted) return;
        this.lastMessageAt = Date.now();
        this.#lastDataAt = -1;
        let taken = 0;
        for (let at = 0; at < frames.length; ) {
          const { from, next, told } = this.#consume(frames, at);
          at = next;
          if (told?.type === 'relation') await this.#describe(told, frames, from, next);
          else if (told?.type === 'message') await this.#takeIn(told, frames.readBigUInt64BE(from + 6));
          else if (told) {
            const committed = await this.#open.take(told, this.#described);
            if (!committed) continue;
            yield* this.#assembler.take(at - taken);
            taken = at;
            yield* this.#deliver(committed, signal);
            if (signal.aborted) return;
          }
        }
        this.#noteWalEnd(frames);
        yield* this.#assembler.take(frames.length - taken);
        await this.#open.spillBeyond();
      }
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  /**
   * The hot loop: no promise, closure or emitter per message. Stops early only where a table is described, and where open
   * transactions begin or end: at the message from `from` to `next`.
   */
  #consume(frames: Buffer, start: number): { from: number; next: number; told: Told | null } {
    let at = start;
    while (at < frames.length) {
      if (this.#open.gathering) {
        const gathered = this.#open.gather(frames, at);
        if (gathered > at) this.#lastDataAt = at;
        at = gathered;
        if (at === frames.length) break;
      }
      const end = at + 1 + frames.readUInt32BE(at + 1);
      if (frames[at] !== COPY_DATA) this.#session.control(frames, at);
      else if (frames[at + 5] === XLOG_DATA) {
        const told = this.#assembler.push(frames, at + XLOG_DATA_AT, end, frames.readBigUInt64BE(at + 6));
        this.#lastDataAt = at;
        if (told) return { from: at, next: end, told };
      } else if (frames[at + 5] === KEEPALIVE) {
        const walEnd = frames.readBigUInt64BE(at + 6);
        if (walEnd > this.serverLsn) this.serverLsn = walEnd;
        if (walEnd > this.#decodedLsn) this.#decodedLsn = walEnd;
        // Open transactions commit beyond it. One that is half sent says nothing new, and may be ending at it.
        if (!this.#open.gathering) this.#assembler.keepalive(walEnd);
        if (frames[at + 22] === 1) this.#sendStatus();
      }
      at = end;
    }
    return { from: at, next: at, told: null };
  }

  /** What a table is from here on: by pgoutput's own description, or by the capture trigger's, which is an event too. */
  async #takeIn(told: RelationMessage | LogicalDecodingMessage, lsn: Lsn): Promise<void> {
    const { moment } = this.#assembler;
    if (told.type === 'relation') {
      const relation = await this.#relations.describe(told);
      if (relation && (await this.#history?.described(relation, this.#relations.partitionsOf(relation.oid), moment)))
        failpoint('during-ddl');
      return;
    }
    const message = readDdl(told.content);
    const altered = message && (await this.#relations.alter(message));
    if (!altered) return;
    const { relation, change, partitions } = altered;
    await this.#history?.changed(relation, change, partitions, moment);
    failpoint('during-ddl');
    this.#assembler.schemaChange(relation, change, lsn);
  }

  async #describe(message: RelationMessage, frames: Buffer, at: number, end: number): Promise<void> {
    this.#described.set(message.oid, { message, stamp: this.#open.nextStamp() });
    if (!this.#open.gathering) return this.#takeIn(message, 0n);
    // Of a prepared transaction: the server takes it for known from here on, and it is part of the transaction as well.
    this.#open.add(frames, at, end, message.oid);
    await this.#relations.describe(message);
  }

  /** Delivers a transaction that was put together, as if it had come whole just now. */
  async *#deliver(committed: CommittedTransaction, signal: AbortSignal): AsyncGenerator<Batch> {
    const { xid, commitLsn, commitTime, endLsn, streamed } = committed;
    const described = new Map<number, RelationMessage>();
    const before = this.#describedBefore(committed);
    for (const { message } of before) await this.#relations.describe(message);
    let bytes = 0;
    this.#assembler.begin(xid, commitLsn, commitTime);
    for await (const part of committed.parts()) {
      // One part late, so that the last one ends with the commit.
      yield* this.#assembler.take(bytes);
      if (signal.aborted) return;
      if (bytes > 0) failpoint('during-streamed-delivery');
      bytes = part.length;
      for (let at = 0, end = 0; at < part.length; at = end) {
        end = at + 1 + part.readUInt32BE(at + 1);
        const lsn = part.readBigUInt64BE(at + 6);
        const told = this.#assembler.push(part, at + XLOG_DATA_AT, end, lsn, streamed);
        if (told === null) continue;
        if (told.type === 'relation') described.set(told.oid, told);
        else if (told.type !== 'message') throw new PgoutputError(`${told.type} came inside a transaction`);
        await this.#takeIn(told, lsn);
      }
    }
    this.#assembler.commit(endLsn);
    yield* this.#assembler.take(bytes);
    for (const { message } of before) await this.#relations.describe(this.#described.get(message.oid)!.message);
    for (const message of described.values()) await this.#adopt(message, committed.relationStamp(message.oid));
    await committed.close();
  }

  /** Tables that have been described anew since the transaction came, by itself or by others: they were this to its first changes. */
  #describedBefore({ described }: CommittedTransaction): DescribedTable[] {
    return [...described].flatMap(([oid, known]) => (this.#described.get(oid) === known ? [] : [known]));
  }

  /**
   * After its commit the server takes a streamed transaction's description of a table for known, unless an ordinary
   * one has brought a newer one meanwhile.
   */
  async #adopt(message: RelationMessage, stamp: number): Promise<void> {
    const known = this.#described.get(message.oid);
    if (known && known.stamp > stamp) await this.#relations.describe(known.message);
    else this.#described.set(message.oid, { message, stamp });
  }

  /** Once per read, not per message: the server repeats its WAL end in each. */
  #noteWalEnd(frames: Buffer): void {
    if (this.#lastDataAt < 0) return;
    this.#decodedLsn = this.#from;
    const walEnd = frames.readBigUInt64BE(this.#lastDataAt + 14);
    if (walEnd > this.serverLsn) this.serverLsn = walEnd;
  }

  #tick(): void {
    const silentMs = this.#session.waiting ? performance.now() - this.#session.receivedAt : 0;
    // Its answer is where it stands.
    this.#sendStatus(silentMs > PROBE_AFTER_MS || this.decoding !== null);
  }

  #sendStatus(wantReply = false): void {
    const payload = Buffer.alloc(34);
    payload[0] = STANDBY_STATUS;
    const acknowledged = this.#hold.bound(this.acknowledged);
    for (const at of [1, 9, 17]) payload.writeBigUInt64BE(acknowledged, at);
    payload.writeBigInt64BE(BigInt(Date.now() - POSTGRES_EPOCH_MS) * 1000n, 25);
    payload[33] = wantReply ? 1 : 0;
    this.#session.send(payload);
  }

  /** Sends a last acknowledgement and hangs up; the server releases the slot at once. Within `timeoutMs`. */
  async close(timeoutMs: number): Promise<void> {
    clearInterval(this.#timer);
    this.#sendStatus();
    await this.#open.close();
    await this.#session.close(timeoutMs);
  }

  /** Hangs up at once. */
  async destroy(): Promise<void> {
    clearInterval(this.#timer);
    this.#session.destroy();
    await this.#open.close();
  }
}
