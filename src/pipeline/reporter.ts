import type { Config } from '../config/schema.ts';
import { EVERY_SINK } from '../dead-letter/dead-letter.ts';
import type { OpenLetters } from '../dead-letter/store.ts';
import type { WaltideError } from '../errors.ts';
import { formatLsn } from '../event/lsn.ts';
import { type SnapshotProgress, secondsLeft } from '../snapshot/snapshot.ts';
import type { Transport } from '../transport/transport.ts';
import { VERSION } from '../version.ts';
import type { Applier } from './applier.ts';
import type { Capture } from './capture.ts';
import { Rate } from './lag.ts';
import { distance, Lags } from './lags.ts';
import type {
  BudgetStatus,
  CaptureStatus,
  CopyStatus,
  LetterStatus,
  PipelineState,
  PipelineStatus,
  Role,
  SinkStatus,
} from './status.ts';

const MEMORY_TTL_MS = 1000;
/** A batch takes seconds; a stage that has had one in hand for this long is stuck, whatever it may say. */
const STUCK_AFTER_MS = 120_000;
/** A server sends keepalives at half of wal_sender_timeout, which is a minute by default. */
const SILENT_AFTER_MS = 90_000;

/** What is open of dead letters, by sink. */
export interface LetterSummaries {
  summary(sink: string): OpenLetters;
}

/** Makes one picture of a pipeline out of its parts. */
export class StatusReporter {
  readonly #config: Config;
  readonly #role: Role;
  readonly #startedAt = new Date();
  #measured = { at: Number.NEGATIVE_INFINITY, memory: { rssBytes: 0, heapBytes: 0 } };
  readonly #copy = new Map<string, CopyStatus>();
  /** Since when each table is read, and how many rows it had then. */
  readonly #reading = new Map<string, { readonly at: number; readonly rows: number }>();
  readonly #rates = new Map<string, Rate>();
  readonly lags: Lags;

  constructor(config: Config, role: Role) {
    this.#config = config;
    this.#role = role;
    this.lags = new Lags(config);
  }

  noteCopy(progress: SnapshotProgress): void {
    const { table, rows, state } = progress;
    const now = performance.now();
    const since = this.#reading.get(table) ?? { at: now, rows };
    const goesOn = state === 'running' && rows >= since.rows;
    if (goesOn) this.#reading.set(table, since);
    else this.#reading.delete(table);
    const rate = now > since.at ? ((rows - since.rows) * 1000) / (now - since.at) : 0;
    this.#copy.set(table, { ...progress, secondsLeft: goesOn ? secondsLeft(progress, rate) : null });
  }

  report(
    state: PipelineState,
    failure: WaltideError | null,
    transport: Transport | null,
    capture: Capture | null,
    budget: BudgetStatus | null,
    appliers: readonly Applier[],
    letters: LetterSummaries | null,
  ): PipelineStatus {
    const now = Date.now();
    const source = capture ? this.#source(capture, budget, now) : null;
    const sinks = appliers.map((applier) => ({
      ...this.#sink(applier, capture, now),
      deadLetters: lettersOf(letters?.summary(applier.sink.name)),
    }));
    const stuck = this.#stuck(capture, appliers, now);
    const failing = appliers.some(
      ({ loop: { status } }) => status.breaker !== 'closed' || (status.lastError !== null && status.busySince !== null),
    );
    return {
      version: VERSION,
      pid: process.pid,
      role: this.#role,
      state: failure ? 'failed' : state,
      failure: failure && `${failure.code}: ${failure.message}. ${failure.help}`,
      startedAt: this.#startedAt.toISOString(),
      source,
      transport: {
        type: this.#config.transport.type,
        bytesInFlight: transport?.bytesInFlight ?? 0,
        deadLetters: lettersOf(letters?.summary(EVERY_SINK)),
      },
      sinks,
      copy: this.#copies(capture),
      memory: this.#memory(now),
      stuck,
      ready:
        (state === 'resting' || (state === 'streaming' && (source?.connected ?? true))) &&
        stuck.length === 0 &&
        !failing,
    };
  }

  /** The system counts pages for it, which takes longer than all the rest of a status. */
  #memory(now: number): PipelineStatus['memory'] {
    if (Math.abs(now - this.#measured.at) >= MEMORY_TTL_MS) {
      const { rss, heapUsed } = process.memoryUsage();
      this.#measured = { at: now, memory: { rssBytes: rss, heapBytes: heapUsed } };
    }
    return this.#measured.memory;
  }

  #source(capture: Capture, budget: BudgetStatus | null, now: number): CaptureStatus {
    const { slot, publication } = this.#config.source;
    const status = capture.source?.status;
    const durable = capture.durableLsn;
    const acknowledged = status?.acknowledgedLsn ?? 0n;
    const { events, bytes, batches, sizes, lsn } = capture.published;
    // Until something is published or durable, what was acknowledged before is.
    const published = this.lags.ofCapture(capture, durable > acknowledged ? durable : acknowledged, now);
    const captured = this.lags.ofCapture(capture, lsn > acknowledged ? lsn : acknowledged, now);
    return {
      slot,
      publication,
      systemIdentifier: capture.identity?.systemIdentifier ?? '',
      database: capture.identity?.database ?? '',
      connected: status?.connected ?? false,
      serverLsn: formatLsn(capture.serverLsn),
      acknowledgedLsn: formatLsn(acknowledged),
      durableLsn: formatLsn(durable),
      lagBytes: published.lagBytes,
      captured,
      published,
      heldBytes: distance(durable, acknowledged),
      budget,
      events,
      eventsPerSecond: this.#rate('source', events, now),
      bytes,
      batches,
      sizes: { rows: sizes.rows.status, bytes: sizes.bytes.status },
      reconnects: status?.reconnects ?? 0,
      decoding: status?.decoding
        ? { lsn: formatLsn(status.decoding.lsn), until: formatLsn(status.decoding.until) }
        : null,
      protocol: status?.protocol ?? null,
      lastMessageAt: status?.lastMessageAt ? new Date(status.lastMessageAt).toISOString() : null,
    };
  }

  #sink(applier: Applier, capture: Capture | null, now: number): Omit<SinkStatus, 'deadLetters'> {
    const { sink, type, loop, subscription } = applier;
    const {
      events,
      batches,
      retries,
      splits,
      pendingEvents,
      pendingBytes,
      lastError,
      stopped,
      breaker,
      breakerOpened,
    } = loop.status;
    const applied = this.lags.ofSink(applier, capture, subscription.appliedLsn(), now);
    const delivered = this.lags.ofSink(applier, capture, subscription.receivedLsn(), now);
    // Without a capture in this process, what is published is the most that is known.
    const end = capture?.serverLsn || subscription.publishedLsn();
    return {
      name: sink.name,
      type,
      appliedLsn: applied.lsn,
      lagBytes: applied.lagBytes,
      lagSeconds: applied.lagSeconds,
      delivered,
      roundTripSeconds: capture?.beats.roundTripSeconds(sink.name, now) ?? null,
      events,
      eventsPerSecond: this.#rate(sink.name, events, now),
      batches,
      sizes: loop.measures.sizes,
      retries,
      splits,
      pendingEvents,
      pendingBytes,
      lastError,
      tables: this.lags.ofTables(applier, delivered, end, now),
      stopped: stopped.map((table) => ({ name: `${table.schema}.${table.table}`, reason: table.reason })),
      losses: sink.losses?.() ?? null,
      breaker,
      breakerOpened,
    };
  }

  /** Snapshots of tables that are gone, or have another name by now, are of no use to anyone. */
  #copies(capture: Capture | null): CopyStatus[] {
    if (capture) {
      const names = new Set(capture.tables.captured.values().map(({ schema, table }) => `${schema}.${table}`));
      for (const [name, { done }] of this.#copy) if (done && !names.has(name)) this.#copy.delete(name);
    }
    return [...this.#copy.values()];
  }

  #stuck(capture: Capture | null, appliers: readonly Applier[], now: number): string[] {
    const stuck: string[] = [];
    for (const { sink, loop } of appliers) {
      const since = loop.status.busySince;
      if (since !== null && now - since > STUCK_AFTER_MS)
        stuck.push(`sink "${sink.name}" has not finished a batch for ${Math.round((now - since) / 1000)} s`);
    }
    const status = capture?.source?.status;
    const backpressure = appliers.some(({ loop }) => loop.status.busySince !== null);
    if (status?.connected && !backpressure && now - status.lastMessageAt > SILENT_AFTER_MS)
      stuck.push(`PostgreSQL has sent nothing for ${Math.round((now - status.lastMessageAt) / 1000)} s`);
    return stuck;
  }

  #rate(name: string, count: number, now: number): number {
    let rate = this.#rates.get(name);
    if (!rate) {
      rate = new Rate();
      this.#rates.set(name, rate);
    }
    return Math.round(rate.measure(count, now));
  }
}

function lettersOf(letters: OpenLetters | undefined): LetterStatus {
  const { count: open = 0, retrying = 0, oldestAt = null, tables = [] } = letters ?? {};
  return {
    open,
    retrying,
    oldestAt: oldestAt?.toISOString() ?? null,
    tables: tables.map(({ name, count }) => ({ name, open: count })),
  };
}
