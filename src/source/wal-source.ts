import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import { type ErrorCode, messageOf, WaltideError } from '../errors.ts';
import type { Batch } from '../event/batch.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import type { SourceIdentity } from '../event/offset.ts';
import type { Log } from '../log.ts';
import type { CapturedTables } from '../postgres/captured.ts';
import { TypeCatalog } from '../postgres/catalog.ts';
import { ServerError } from '../postgres/copy-session.ts';
import { identify } from '../postgres/identity.ts';
import { connectSource, slotSide } from '../postgres/session.ts';
import { checkSlot, readSlot, waitUntilReleased } from '../postgres/slot.ts';
import { Assembler } from './assembler.ts';
import { clearSpill, OpenTransactions } from './open-transactions.ts';
import { PgoutputError } from './pgoutput.ts';
import { PreparedHold } from './prepared-hold.ts';
import { negotiate, type Protocol, readProtocolServer } from './protocol.ts';
import { serverRefusal, serverStuck } from './refusals.ts';
import { RelationCache } from './relations.ts';
import { ReplicationStream, type ReplicationStreamOptions } from './replication-stream.ts';
import { type Hides, SchemaHistory } from './schema-history.ts';
import type { ProtocolStatus, Source, SourceStatus } from './source.ts';

const BACKOFF_FIRST_MS = 200;
/** A server that restarts is back within seconds; a longer pause would only add lag. */
const BACKOFF_MAX_MS = 5000;
const CLOSE_TIMEOUT_MS = 3000;
const TOLD_EVERY_MS = 5000;

/** An error of the server that comes so often, at one place, is there to stay: it takes a quarter of a minute to find out. */
const REPEATS_MAX = 8;

/** Final at the start; once streaming has worked, a password is being changed or the old connection still lingers. */
const HEALS_LATER: ReadonlySet<ErrorCode> = new Set([
  'SOURCE_AUTHENTICATION',
  'SOURCE_DATABASE_MISSING',
  'SLOT_IN_USE',
]);

export interface WalSourceOptions {
  readonly config: SourceConfig;
  readonly identity: SourceIdentity;
  readonly publications: readonly string[];
  /** The tables to let through; null for every published one. */
  readonly captured: CapturedTables | null;
  readonly hides: Hides;
  /** Where transactions in progress may be spilled to. Several slots may share it. */
  readonly stateDir: string;
  /** Everything before it is durable downstream, though the slot may retain more; 0 for the slot's own position. */
  readonly from: Lsn;
  readonly log: Log;
}

/** Streams one slot by pgoutput. */
export class WalSource implements Source {
  readonly #options: WalSourceOptions;
  readonly #hold = new PreparedHold();
  #stream: ReplicationStream | null = null;
  #protocol: Protocol | null = null;
  #open: OpenTransactions | null = null;
  /** Why the last session could not go on with transactions in progress: the next one leaves them to the server. */
  #streamingFailure: string | null = null;
  #degraded: string | null = null;
  #acknowledged: Lsn = 0n;
  #durable: Lsn;
  #serverLsn: Lsn = 0n;
  #lastMessageAt = 0;
  #reconnects = -1;
  #repeated = { what: '', times: 0 };

  constructor(options: WalSourceOptions) {
    this.#options = options;
    this.#durable = options.from;
  }

  get status(): SourceStatus {
    this.#keepStatus();
    return {
      connected: this.#stream !== null,
      serverLsn: this.#serverLsn,
      acknowledgedLsn: this.#acknowledged,
      lastMessageAt: this.#lastMessageAt,
      reconnects: Math.max(0, this.#reconnects),
      decoding: this.#stream?.decoding ?? null,
      protocol: this.#protocolStatus(),
    };
  }

  acknowledge(lsn: Lsn, durable: Lsn): void {
    if (durable > this.#durable) this.#durable = durable;
    if (lsn <= this.#acknowledged) return;
    this.#acknowledged = lsn;
    if (this.#stream) this.#stream.acknowledged = lsn;
  }

  async *stream(signal: AbortSignal): AsyncGenerator<Batch> {
    let assembler: Assembler | null = null;
    let backoffMs = BACKOFF_FIRST_MS;
    while (!signal.aborted) {
      let catalog: pg.Client | null = null;
      let recorder: pg.Client | null = null;
      let told: NodeJS.Timeout | undefined;
      try {
        catalog = await this.#connect(false);
        recorder = this.#options.config.primaryUrl ? await connectSource(this.#options.config, '') : catalog;
        const { config, log, hides } = this.#options;
        const history = await SchemaHistory.load({ client: recorder, slot: config.slot, log, hides });
        const relations = this.#relations(catalog, history);
        const next: Assembler = new Assembler(relations, assembler?.handedOut ?? { commitLsn: this.#durable, seq: 0 });
        assembler = next;
        const stream = await this.#start(catalog, { relations, history, assembler: next }, signal);
        this.#stream = stream;
        this.#reconnects++;
        this.#options.log.info({ slot: this.#options.identity.slot, from: formatLsn(this.#durable) }, 'streaming');
        told = tellDecoding(stream, this.#options.log);
        for await (const batch of stream.batches(signal)) {
          backoffMs = BACKOFF_FIRST_MS;
          yield batch;
        }
        if (!signal.aborted)
          throw new WaltideError('SOURCE_CONNECTION_LOST', 'the server ended the stream', 'It is tried again.');
      } catch (error) {
        if (signal.aborted) return;
        const reason = this.#repeats(error, assembler?.handedOut.commitLsn ?? this.#durable) ?? streamError(error);
        if (failedByStreaming(error)) this.#streamingFailure = reason.message;
        // Before the first connection every error is final: someone is looking, and a wrong setting would be retried for ever.
        if (this.#reconnects < 0 || !(reason.retry || HEALS_LATER.has(reason.code))) throw reason;
        this.#options.log.warn({ retryInMs: backoffMs }, `${reason.message}; reconnecting`);
      } finally {
        clearInterval(told);
        // After an abort the session stays, so that what is still draining can be acknowledged.
        if (!signal.aborted) await this.#hangUp();
        await catalog?.end().catch(() => {});
        if (recorder !== catalog) await recorder?.end().catch(() => {});
      }
      if (!signal.aborted) await sleep(backoffMs, undefined, { signal }).catch(() => {});
      backoffMs = Math.min(backoffMs * 2, BACKOFF_MAX_MS);
    }
  }

  /** Null for an error that may pass, or has not come often yet. */
  #repeats(error: unknown, at: Lsn): WaltideError | null {
    if (!(error instanceof ServerError) || /^(08|40|53|55|57)/.test(error.code)) return null;
    const what = `${error.code} ${error.message} ${at}`;
    this.#repeated = { what, times: this.#repeated.what === what ? this.#repeated.times + 1 : 1 };
    return this.#repeated.times < REPEATS_MAX ? null : serverStuck(error, at, REPEATS_MAX);
  }

  #relations(catalog: pg.Client, history: SchemaHistory): RelationCache {
    const { config, publications, captured, log } = this.#options;
    const types = new TypeCatalog(catalog);
    return new RelationCache({ catalog, types, slot: config.slot, publications, captured, log, history });
  }

  #connect(replication: boolean): Promise<pg.Client> {
    return connectSource(slotSide(this.#options.config), '', { replication });
  }

  async #start(
    catalog: pg.Client,
    parts: Pick<ReplicationStreamOptions, 'relations' | 'history' | 'assembler'>,
    signal: AbortSignal,
  ): Promise<ReplicationStream> {
    const { config, identity, publications, stateDir, log } = this.#options;
    const found = await identify(catalog, config.slot);
    if (found.systemIdentifier !== identity.systemIdentifier)
      throw new WaltideError(
        'CLUSTER_MISMATCH',
        `the server is now cluster ${found.systemIdentifier}, not ${identity.systemIdentifier}`,
        'Point source.url at the cluster that the sinks were filled from, or copy anew with `waltide run --recopy`.',
      );
    // Where it branches off decides whether sinks may go on, and each knows for itself how far it is.
    if (found.timeline !== identity.timeline)
      throw new WaltideError(
        'TIMELINE_CHANGED',
        `a standby was promoted: the server is on timeline ${found.timeline}, before it was ${identity.timeline}`,
        'The pipeline begins again, from what the sinks have.',
      );
    await waitUntilReleased(catalog, config.slot, config.slotWaitMs, log, signal);
    const slot = await readSlot(catalog, config.slot);
    if (!slot)
      throw new WaltideError(
        'SLOT_MISSING',
        `slot "${config.slot}" is gone`,
        'Someone dropped it, so changes are missing. Copy anew with `waltide run --recopy`.',
      );
    checkSlot(slot, identity.database);
    if (slot.confirmedFlushLsn !== null && this.#durable > 0n && slot.confirmedFlushLsn > this.#durable)
      throw new WaltideError(
        'SLOT_AHEAD',
        `slot "${config.slot}" was advanced by someone else to ${formatLsn(slot.confirmedFlushLsn)}`,
        'Changes are missing. Copy anew with `waltide run --recopy`.',
      );
    this.acknowledge(slot.confirmedFlushLsn ?? 0n, slot.confirmedFlushLsn ?? 0n);
    const protocol = await this.#negotiate(catalog);
    const folder = join(stateDir, 'spill', `${identity.systemIdentifier}.${config.slot}`);
    const { memoryBytesMax } = config.protocol;
    const open = new OpenTransactions({ memoryBytesMax, folder, hold: this.#hold });
    const stream = await ReplicationStream.start(await this.#connect(true), {
      slot: config.slot,
      // Prepared transactions come at their PREPARE alone, which may lie before what is durable by now.
      from: protocol.twoPhase ? (slot.confirmedFlushLsn ?? 0n) : this.#durable,
      restart: slot.restartLsn ?? this.#durable,
      acknowledged: this.#acknowledged,
      publications,
      protocol,
      open,
      hold: this.#hold,
      ...parts,
    });
    // Whoever holds the slot is alone with it: what lies there is of a process that was killed.
    await clearSpill(folder);
    this.#protocol = protocol;
    this.#open = open;
    return stream;
  }

  /** After such a failure one session does without: the server then keeps transactions in progress itself. */
  async #negotiate(catalog: pg.Client): Promise<Protocol> {
    const { protocol, slot } = this.#options.config;
    this.#degraded = this.#streamingFailure;
    this.#streamingFailure = null;
    const wanted = this.#degraded === null ? protocol : { ...protocol, streaming: 'off' as const };
    return negotiate(wanted, await readProtocolServer(catalog, slot));
  }

  #protocolStatus(): ProtocolStatus | null {
    if (!this.#stream || !this.#protocol || !this.#open) return null;
    const { transactions: openTransactions, memoryBytes, spilledBytes } = this.#open.status;
    return { ...this.#protocol, openTransactions, memoryBytes, spilledBytes, degraded: this.#degraded };
  }

  async close(): Promise<void> {
    const stream = this.#stream;
    this.#stream = null;
    await stream?.close(CLOSE_TIMEOUT_MS);
  }

  async #hangUp(): Promise<void> {
    this.#keepStatus();
    const stream = this.#stream;
    this.#stream = null;
    await stream?.destroy();
  }

  #keepStatus(): void {
    if (!this.#stream) return;
    this.#serverLsn = this.#stream.serverLsn;
    this.#lastMessageAt = this.#stream.lastMessageAt;
  }
}

/** Says that, and how far, the server decodes retained WAL once more: until it is through, a stream looks as if it stood still. */
function tellDecoding(stream: ReplicationStream, log: Log): NodeJS.Timeout {
  const timer = setInterval(() => {
    const { decoding } = stream;
    if (decoding === null) return clearInterval(timer);
    const [at, until] = [formatLsn(decoding.lsn), formatLsn(decoding.until)];
    log.info({ at, until }, 'the server decodes retained WAL once more before it sends anything');
  }, TOLD_EVERY_MS);
  return timer.unref();
}

/**
 * A disk of ours that is full; a transaction that only its end makes clear; or an internal error of the server, which
 * while it decodes transactions in progress can come upon catalog rows that were rolled back and are gone ("could not
 * map filenumber").
 */
function failedByStreaming(error: unknown): boolean {
  if (error instanceof WaltideError) return error.code === 'SPILL' || error.code === 'STREAMING';
  return error instanceof ServerError && error.code.startsWith('XX');
}

/** What a broken stream means: most of it heals by reconnecting. */
function streamError(error: unknown): WaltideError {
  if (error instanceof WaltideError) return error;
  if (error instanceof PgoutputError)
    return new WaltideError(
      'PROTOCOL',
      `the stream cannot be understood: ${error.message}`,
      'Report this with the PostgreSQL version; nothing was lost.',
      { cause: error },
    );
  if (error instanceof ServerError) return serverRefusal(error);
  if (error instanceof RangeError || error instanceof TypeError)
    return new WaltideError(
      'INTERNAL',
      `a fault in Waltide itself: ${error.stack ?? error.message}`,
      'Please report this; nothing was lost.',
      { cause: error },
    );
  return new WaltideError(
    'SOURCE_CONNECTION_LOST',
    `the connection to PostgreSQL broke: ${messageOf(error)}`,
    'It is tried again.',
    { cause: error },
  );
}
