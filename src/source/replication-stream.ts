import type pg from 'pg';
import type { Batch } from '../event/batch.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import { failpoint } from '../failpoint.ts';
import { COPY_DATA, CopySession } from '../postgres/copy-session.ts';
import type { Assembler } from './assembler.ts';
import { readDdl } from './ddl.ts';
import type { LogicalDecodingMessage, RelationMessage } from './pgoutput.ts';
import type { RelationCache } from './relations.ts';
import type { SchemaHistory } from './schema-history.ts';

/*
 * Streaming Replication Protocol (PostgreSQL manual, chapter "Frontend/Backend Protocol"): what CopyData carries.
 */
const XLOG_DATA = 0x77; // 'w' Int64 start, Int64 end of WAL, Int64 clock, then the message
const XLOG_DATA_HEADER = 25;
const KEEPALIVE = 0x6b; // 'k' Int64 end of WAL, Int64 clock, Byte1 reply wanted
const STANDBY_STATUS = 0x72; // 'r' Int64 written, flushed, applied, clock, Byte1 reply wanted
const POSTGRES_EPOCH_MS = 946_684_800_000;

/** Well below the smallest sensible wal_sender_timeout, and cheap. */
const STATUS_INTERVAL_MS = 1000;
/** A server that has been silent for this long is asked for a sign of life… */
const PROBE_AFTER_MS = 10_000;
/** … and given up after this: TCP alone would take many minutes to notice a half-open connection. */
const SILENCE_MAX_MS = 40_000;

export interface ReplicationStreamOptions {
  readonly slot: string;
  /** Transactions that committed before it are not sent. */
  readonly from: Lsn;
  /** What the server has been told it may forget; at most `from`. */
  readonly acknowledged: Lsn;
  readonly publications: readonly string[];
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
  readonly #timer: NodeJS.Timeout;
  /** Offset of the last XLogData of this read; -1 for none. */
  #lastDataAt = -1;
  /** Told to the server as written, flushed and applied, which are one for us: what is durable downstream. */
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
    this.acknowledged = options.acknowledged;
    // On a timer, never behind a paused read: a slow sink must not look like a dead client.
    this.#timer = setInterval(() => this.#tick(), STATUS_INTERVAL_MS);
  }

  /** Rejects with the server's refusal; `replication` is closed then. */
  static async start(replication: pg.Client, options: ReplicationStreamOptions): Promise<ReplicationStream> {
    const names = options.publications.map((name) => `"${name.replaceAll('"', '""')}"`).join(',');
    const plugin = `proto_version '1', publication_names '${names.replaceAll("'", "''")}', messages 'true'`;
    const command = `START_REPLICATION SLOT "${options.slot}" LOGICAL ${formatLsn(options.from)} (${plugin})`;
    return new ReplicationStream(await CopySession.start(replication, command), options);
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
        for (let at = 0; at < frames.length; ) {
          const { next, told } = this.#consume(frames, at);
          if (told) await this.#takeIn(told, frames.readBigUInt64BE(this.#lastDataAt + 6));
          at = next;
        }
        this.#noteWalEnd(frames);
        for (const batch of this.#assembler.take(frames.length)) yield batch;
      }
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  /** The hot loop: no promise, closure or emitter per message. Stops early only where a table is described. */
  #consume(frames: Buffer, from: number): { next: number; told: RelationMessage | LogicalDecodingMessage | null } {
    let at = from;
    while (at < frames.length) {
      const end = at + 1 + frames.readUInt32BE(at + 1);
      if (frames[at] !== COPY_DATA) this.#session.control(frames, at);
      else if (frames[at + 5] === XLOG_DATA) {
        const told = this.#assembler.push(frames, at + 5 + XLOG_DATA_HEADER, end, frames.readBigUInt64BE(at + 6));
        this.#lastDataAt = at;
        if (told) return { next: end, told };
      } else if (frames[at + 5] === KEEPALIVE) {
        const walEnd = frames.readBigUInt64BE(at + 6);
        if (walEnd > this.serverLsn) this.serverLsn = walEnd;
        this.#assembler.keepalive(walEnd);
        if (frames[at + 22] === 1) this.#sendStatus();
      }
      at = end;
    }
    return { next: at, told: null };
  }

  /** What a table is from here on: by pgoutput's own description, or by the capture trigger's, which is an event too. */
  async #takeIn(told: RelationMessage | LogicalDecodingMessage, lsn: Lsn): Promise<void> {
    const { moment } = this.#assembler;
    if (told.type === 'relation') {
      const relation = await this.#relations.describe(told);
      if (relation) await this.#history?.described(relation, moment);
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

  /** Once per read, not per message: the server repeats its WAL end in each. */
  #noteWalEnd(frames: Buffer): void {
    if (this.#lastDataAt < 0) return;
    const walEnd = frames.readBigUInt64BE(this.#lastDataAt + 14);
    if (walEnd > this.serverLsn) this.serverLsn = walEnd;
  }

  #tick(): void {
    const silentMs = this.#session.waiting ? Date.now() - this.#session.receivedAt : 0;
    if (silentMs <= SILENCE_MAX_MS) this.#sendStatus(silentMs > PROBE_AFTER_MS);
    else this.#session.giveUp(`the server has been silent for ${Math.round(silentMs / 1000)} s`);
  }

  #sendStatus(wantReply = false): void {
    const payload = Buffer.alloc(34);
    payload[0] = STANDBY_STATUS;
    for (const at of [1, 9, 17]) payload.writeBigUInt64BE(this.acknowledged, at);
    payload.writeBigInt64BE(BigInt(Date.now() - POSTGRES_EPOCH_MS) * 1000n, 25);
    payload[33] = wantReply ? 1 : 0;
    this.#session.send(payload);
  }

  /** Sends a last acknowledgement and hangs up; the server releases the slot at once. Within `timeoutMs`. */
  async close(timeoutMs: number): Promise<void> {
    clearInterval(this.#timer);
    this.#sendStatus();
    await this.#session.close(timeoutMs);
  }

  /** Hangs up at once. */
  destroy(): void {
    clearInterval(this.#timer);
    this.#session.destroy();
  }
}
