import { setTimeout as sleep } from 'node:timers/promises';
import type { BreakerConfig } from '../config/schema.ts';
import type { Letters } from '../dead-letter/dead-letter.ts';
import { messageOf, RejectedError, WaltideError } from '../errors.ts';
import type { Delivery } from '../event/batch.ts';
import type { ChangeEvent } from '../event/change-event.ts';
import { eachRow } from '../event/copied-rows.ts';
import { formatLsn } from '../event/lsn.ts';
import type { Offset } from '../event/offset.ts';
import { formatPosition } from '../event/position.ts';
import { type Relation, relationName } from '../event/relation.ts';
import { BYTES, Histogram, ROWS, SECONDS } from '../histogram.ts';
import type { Log } from '../log.ts';
import { AppliedTables } from './applied-tables.ts';
import type { AppliedTable, ApplyStatus, BatchSizes } from './apply-status.ts';
import type { Beside } from './beside.ts';
import { Breaker } from './breaker.ts';
import { offsetsUpTo } from './deliveries.ts';
import { Following } from './following.ts';
import { applyInParts, isBatchRejection } from './parts.ts';
import { Refused } from './refused.ts';
import type { Sink, SinkState } from './sink.ts';

const BACKOFF_FIRST_MS = 100;
const BACKOFF_MAX_MS = 30_000;
/** Before a lost transaction is read once more, where its sink may need time to heal. */
const BACKOFF_LOST_MS = 1_000;

export interface ApplyingOptions {
  readonly sink: Sink;
  /** What `open` of the sink returned. */
  readonly state: Pick<SinkState, 'stopped' | 'tables'> & Partial<Pick<SinkState, 'offsets'>>;
  readonly breaker: BreakerConfig;
  /** Where what the sink refuses goes, unless the sink sees to that itself (null). */
  readonly letters: Letters | null;
  readonly log: Log;
  /** The sink has just set the table with this OID aside: only a snapshot that begins from now on can bring it up to date. */
  readonly onLacking?: (oid: number) => void;
  /**
   * Called where an open transaction of the sink was lost, parts of which cannot be handed to it again: everything is to
   * be opened again, from what the sinks have durably. The loop then waits to be aborted.
   */
  readonly beginAgain: (reason: string) => void;
}

/**
 * Applies one delivery after another: leaves out what the sink does not follow, retries what may heal, and sets aside the one
 * row or table that cannot be held.
 */
export class Applying {
  readonly #options: ApplyingOptions;
  readonly #following: Following;
  readonly #breaker: Breaker;
  readonly #tables = new AppliedTables();
  /** Log offsets that the sink has saved, by partition. */
  readonly #next = new Map<string, bigint | null>();
  #refused: Refused | null = null;
  #parts = false;
  #events = 0;
  #batches = 0;
  #retries = 0;
  #splits = 0;
  #breakerOpened = 0;
  readonly #sizes = { rows: new Histogram(ROWS), bytes: new Histogram(BYTES), seconds: new Histogram(SECONDS) };
  #busySince: number | null = null;
  #lastError: string | null = null;

  constructor(options: ApplyingOptions) {
    this.#options = options;
    const { sink, state, breaker, log } = options;
    this.#following = new Following(sink.name, state);
    this.#breaker = new Breaker(breaker, (is) => {
      if (is === 'open') this.#breakerOpened++;
      log.warn({ sink: sink.name, breaker: is }, `circuit breaker: ${is}`);
    });
    this.saved(state.offsets ?? []);
  }

  get status(): Omit<ApplyStatus, 'pendingEvents' | 'pendingBytes'> {
    return {
      events: this.#events,
      batches: this.#batches,
      retries: this.#retries,
      splits: this.#splits,
      stopped: this.#following.stopped,
      followed: this.#following.tables,
      busySince: this.#busySince,
      lastError: this.#lastError,
      breaker: this.#breaker.state,
      breakerOpened: this.#breakerOpened,
    };
  }

  get tables(): readonly AppliedTable[] {
    return this.#tables.status;
  }

  get sizes(): Omit<BatchSizes, 'delaySeconds'> {
    const { rows, bytes, seconds } = this.#sizes;
    return { rows: rows.status, bytes: bytes.status, seconds: seconds.status };
  }

  /** Before anything is applied. */
  async load(): Promise<void> {
    const { letters } = this.#options;
    if (letters) this.#refused = await Refused.load(letters);
  }

  /** The table as the sink has it, or as the last change of it that came by; null where neither is known. */
  relationOf(oid: number): Relation | null {
    return this.#options.sink.relationOf?.(oid) ?? this.#tables.relationOf(oid);
  }

  /** Rows that were set aside for the sink; null where it sees to them itself. */
  get refused(): Refused | null {
    return this.#refused;
  }

  /** These are durable in the sink. */
  saved(offsets: readonly Offset[]): void {
    for (const { partition, next } of offsets) this.#next.set(partition, next);
  }

  /**
   * Resolves with true = durable, false = in an open transaction of the sink, null = given up, since the loop is to end.
   * `parts`: the sink's transaction holds parts already, which nobody here has any more.
   */
  async apply(delivery: Delivery, parts: boolean, signal: AbortSignal): Promise<boolean | null> {
    this.#busySince = Date.now();
    this.#parts = parts;
    try {
      return await this.#apply(delivery, signal);
    } finally {
      this.#busySince = null;
    }
  }

  /** Begins to apply a chunk of a snapshot beside what comes next; null where it must have its turn. */
  async beside(chunk: Delivery): Promise<Beside | null> {
    const { sink, log } = this.#options;
    if (!sink.beside || this.#refused || this.#breaker.state !== 'closed') return null;
    // What is left out, or changes what is followed, is a matter of its turn.
    if (this.#following.select(chunk.events) !== chunk.events) return null;
    try {
      return await sink.beside(chunk);
    } catch (error) {
      log.debug({ sink: sink.name, reason: messageOf(error) }, 'a chunk is applied in its turn');
      return null;
    }
  }

  /** A chunk that was applied beside others is durable, `seconds` after it was begun. */
  appliedBeside(chunk: Delivery, seconds: number): void {
    this.#noteApplied(chunk, seconds);
  }

  async #apply(delivery: Delivery, signal: AbortSignal): Promise<boolean | null> {
    const { sink } = this.#options;
    for (;;) {
      try {
        const selected = this.#following.select(delivery.events);
        const rows = sink.takesCopies ? selected : eachRow(selected);
        const events = this.#refused ? await this.#refused.sift(rows) : rows;
        const durable = await this.#attempt({ ...delivery, events }, signal).catch((error: unknown) => {
          if (!this.#refused || !isBatchRejection(error) || this.#parts) throw error;
          return this.#inParts(delivery, eachRow(events), signal);
        });
        if (durable === null) return null;
        for (const oid of this.#following.applied()) this.#tables.forget(oid);
        if (durable && !delivery.complete && this.#parts) this.#noteSplit(delivery);
        return durable;
      } catch (error) {
        this.#lastError = messageOf(error);
        if (!(error instanceof RejectedError)) throw error;
        await this.#stop(error, delivery.events);
        if (this.#parts) return this.lose(error, signal);
      }
    }
  }

  /** One delivery, again and again while that may help. Resolves as `#apply` does; rejects with what cannot heal. */
  async #attempt(delivery: Delivery, signal: AbortSignal): Promise<boolean | null> {
    const { sink, log } = this.#options;
    for (let backoffMs = BACKOFF_FIRST_MS; ; ) {
      try {
        const began = performance.now();
        const durable = await this.#breaker.run(() => sink.apply(delivery));
        this.#lastError = null;
        this.#noteApplied(delivery, (performance.now() - began) / 1000);
        return durable;
      } catch (error) {
        this.#lastError = messageOf(error);
        if (!(error instanceof WaltideError) || !error.retry) throw error;
        if (this.#parts) return this.lose(error, signal);
        this.#retries++;
        const retryInMs = this.#breaker.waitMs ?? backoffMs;
        log.warn({ sink: sink.name, retryInMs }, `${error.message}; trying again. ${error.help}`);
        // A sink that is left alone has nothing in hand that it could be stuck with.
        if (this.#breaker.state === 'open') this.#busySince = null;
        await sleep(retryInMs, undefined, { signal }).catch(() => {});
        if (signal.aborted) return null;
        this.#busySince ??= Date.now();
        backoffMs = Math.min(backoffMs * 2, BACKOFF_MAX_MS);
      }
    }
  }

  /** The sink refuses some of the events: these become dead letters, and the others are applied in order. */
  async #inParts(delivery: Delivery, events: readonly ChangeEvent[], signal: AbortSignal): Promise<boolean | null> {
    const { sink, log } = this.#options;
    const refused = this.#refused!;
    let durable: boolean | null = null;
    const done = await applyInParts(events, {
      sift: (part) => refused.sift(part),
      apply: async (part, last) => {
        const offsets = last ? delivery.offsets : offsetsUpTo(part, delivery, this.#next);
        const complete = !last || delivery.complete;
        durable = await this.#attempt({ ...delivery, events: part, offsets, complete }, signal);
        return durable !== null;
      },
      refuse: (event, reason) => {
        const table = event.relation && relationName(event.relation);
        log.error(
          { sink: sink.name, table, position: formatPosition(event.position) },
          `set aside as a dead letter: ${reason}`,
        );
        return refused.refuse(event, reason);
      },
      stop: async (error, rest) => {
        await this.#stop(error, rest);
        return this.#following.select(rest);
      },
    });
    return done ? durable : null;
  }

  /**
   * Parts of the transaction are gone with it, or of a chunk, and nobody here has them any more. Resolves once the loop is to end.
   */
  async lose(error: WaltideError, signal: AbortSignal): Promise<null> {
    const { sink, log, beginAgain } = this.#options;
    this.#retries++;
    log.warn({ sink: sink.name }, `${error.message}; what was under way is applied again. ${error.help}`);
    if (!(error instanceof RejectedError)) await sleep(BACKOFF_LOST_MS, undefined, { signal }).catch(() => {});
    if (signal.aborted) return null;
    beginAgain(`sink "${sink.name}" lost what it was applying: ${error.message}`);
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener('abort', () => resolve(), { once: true });
    });
    return null;
  }

  #noteSplit(delivery: Delivery): void {
    this.#splits++;
    const { sink, log } = this.#options;
    const { commitLsn } = delivery.events.at(-1)!.transaction;
    log.warn(
      { sink: sink.name, commitLsn: formatLsn(commitLsn) },
      'a source transaction is applied in parts, since it is larger than transactionBytesMax or than what fits in memoryLimit of the sink: readers see parts of it until all of it is applied',
    );
  }

  async #stop(error: RejectedError, events: readonly ChangeEvent[]): Promise<void> {
    const { sink, log } = this.#options;
    const event = this.#following
      .select(events)
      .find(({ relation }) => relation?.schema === error.schema && relation.table === error.table);
    if (!event?.relation) throw error;
    const { schema, table, message: reason, snapshotGoesOn, refill } = error;
    const where = { sink: sink.name, table: relationName(error) };
    if (refill) log.warn(where, `table is copied again: ${reason}. ${error.help}`);
    else log.error(where, `table is stopped: ${reason}. ${error.help}`);
    await sink.stopTable(event.relation, reason, { snapshotGoesOn, refill });
    const { oid } = event.relation;
    this.#following.stop({ schema, table, oid, reason: refill ? null : reason }, events, snapshotGoesOn);
    if (refill && !snapshotGoesOn) this.#options.onLacking?.(oid);
  }

  #noteApplied({ events, bytes }: Delivery, seconds: number): void {
    this.#batches++;
    if (events.length === 0) return;
    const rows = this.#tables.count(events);
    this.#events += rows;
    this.#sizes.rows.observe(rows);
    this.#sizes.bytes.observe(bytes);
    this.#sizes.seconds.observe(seconds);
  }
}
