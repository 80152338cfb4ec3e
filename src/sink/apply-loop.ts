import { setTimeout as sleep } from 'node:timers/promises';
import type { BatchConfig } from '../config/schema.ts';
import { messageOf, RejectedError, WaltideError } from '../errors.ts';
import type { Delivery } from '../event/batch.ts';
import type { ChangeEvent } from '../event/change-event.ts';
import { CopyEvent, countRows, eachRow } from '../event/copied-rows.ts';
import { formatLsn } from '../event/lsn.ts';
import type { Offset } from '../event/offset.ts';
import { relationName } from '../event/relation.ts';
import type { Log } from '../log.ts';
import type { Subscription } from '../transport/transport.ts';
import { Following } from './following.ts';
import { type Pace, smaller } from './pace.ts';
import type { FollowedTable, Sink, SinkState, StoppedTable } from './sink.ts';

const BACKOFF_FIRST_MS = 100;
const BACKOFF_MAX_MS = 30_000;
/** Before a lost transaction is read once more, where its sink may need time to heal. */
const BACKOFF_LOST_MS = 1_000;
/** An idle stream's keepalives and heartbeats need not cost the sink a transaction each. */
const IDLE_SAVE_MS = 200;

export interface ApplyLoopOptions {
  readonly sink: Sink;
  readonly subscription: Subscription;
  /** What `open` of the sink returned. */
  readonly state: Pick<SinkState, 'stopped' | 'tables'>;
  readonly pace: Pace;
  readonly log: Log;
  /** The sink has just set the table with this OID aside: only a snapshot that begins from now on can bring it up to date. */
  readonly onLacking?: (oid: number) => void;
  /**
   * Called where an open transaction of the sink was lost, parts of which cannot be handed to it again: everything is to
   * be opened again, from what the sinks have durably. The loop then waits to be aborted.
   */
  readonly beginAgain: (reason: string) => void;
}

/** What somebody waits for: idle = where the stream is, though nothing changes; now = what has come, before it has lingered. */
export type Haste = 'none' | 'idle' | 'now';

interface Pending {
  readonly delivery: Delivery;
  /** By `performance.now`, in ms. */
  readonly dueAt: number;
  /** Null where it brings no events: it is in no hurry, and fills nothing. */
  readonly batching: BatchConfig | null;
}

export interface ApplyStatus {
  readonly events: number;
  readonly batches: number;
  readonly retries: number;
  /** How often a source transaction was too large for one of the sink, and was made durable in the middle. */
  readonly splits: number;
  readonly pendingEvents: number;
  readonly pendingBytes: number;
  readonly stopped: readonly StoppedTable[];
  /** What the sink holds; null where it does not remember. */
  readonly followed: readonly FollowedTable[] | null;
  /** Events applied per table since the start. */
  readonly tables: ReadonlyMap<string, number>;
  /** Since when the present batch has been under way, in Unix milliseconds; null when idle. Liveness watches it. */
  readonly busySince: number | null;
  readonly lastError: string | null;
}

/**
 * Drives one sink: takes deliveries, puts them together into batches that are worth a transaction, leaves out what the
 * sink does not follow, retries what may heal and sets aside the one table that cannot be held.
 */
export class ApplyLoop {
  readonly #options: ApplyLoopOptions;
  readonly #following: Following;
  readonly #tables = new Map<string, number>();
  readonly #pending: Pending[] = [];
  #pendingBytes = 0;
  #pendingEvents = 0;
  #haste: Haste = 'none';
  #savedAt = Number.NEGATIVE_INFINITY;
  /** When the last batch was done, by `performance.now`. */
  #doneAt = performance.now();
  #events = 0;
  #batches = 0;
  #retries = 0;
  #splits = 0;
  /** What waits in the sink's open transaction, without its events. */
  readonly #waiting: Delivery[] = [];
  #busySince: number | null = null;
  #lastError: string | null = null;
  #wake: (() => void) | null = null;
  #room: (() => void) | null = null;

  constructor(options: ApplyLoopOptions) {
    this.#options = options;
    this.#following = new Following(options.sink.name, options.state);
  }

  get status(): ApplyStatus {
    return {
      events: this.#events,
      batches: this.#batches,
      retries: this.#retries,
      splits: this.#splits,
      pendingEvents: this.#pendingEvents,
      pendingBytes: this.#pendingBytes,
      stopped: this.#following.stopped,
      followed: this.#following.tables,
      tables: this.#tables,
      busySince: this.#busySince,
      lastError: this.#lastError,
    };
  }

  /** Until it is called again. */
  hasten(haste: Haste): void {
    this.#haste = haste;
    if (haste !== 'none') this.#wake?.();
  }

  /**
   * Resolves when `signal` aborts and the batch under way is applied; what was still pending is delivered again after
   * a restart. Rejects with what only a person can mend.
   */
  async run(signal: AbortSignal): Promise<void> {
    const failed = new AbortController();
    const either = AbortSignal.any([signal, failed.signal]);
    const reading = this.#read(either);
    // Abort first, then wake: an applier woken before would look, find nothing to do, and pause for ever.
    const stop = (): void => {
      failed.abort();
      this.#wake?.();
    };
    reading.then(stop, stop);
    try {
      await this.#applyAll(either);
    } finally {
      failed.abort();
      this.#room?.();
    }
    await reading;
  }

  async #read(signal: AbortSignal): Promise<void> {
    const { subscription, pace } = this.#options;
    while (!signal.aborted) {
      let delivery: Delivery;
      try {
        delivery = await subscription.receive(signal);
      } catch (error) {
        if (signal.aborted) return;
        throw error;
      }
      const batching = delivery.events.length > 0 ? pace.of(delivery.events) : null;
      const dueAt = batching ? performance.now() + batching.lingerMs : Number.POSITIVE_INFINITY;
      this.#pending.push({ delivery, dueAt, batching });
      this.#pendingBytes += delivery.bytes;
      this.#pendingEvents += countRows(delivery.events);
      this.#wake?.();
      // One batch is being applied, one may wait; the rest stays with the transport, which has its own bound.
      while (this.#pendingBytes > pace.bytesMax * 2 && !signal.aborted)
        await new Promise<void>((resolve) => (this.#room = resolve));
    }
  }

  async #applyAll(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const count = this.#ready();
      if (count === 0) {
        await this.#pause();
        continue;
      }
      const taken = this.#pending.splice(0, count).map(({ delivery }) => delivery);
      const merged = merge(taken);
      this.#pendingBytes -= merged.bytes;
      this.#pendingEvents -= countRows(merged.events);
      this.#room?.();
      this.#busySince = Date.now();
      const began = performance.now();
      const durable = await this.#apply(merged, signal);
      this.#busySince = null;
      const done = performance.now();
      this.#options.pace.spent((done - began) / Math.max(done - this.#doneAt, 1));
      this.#doneAt = done;
      if (durable === null) return;
      this.#settle(taken, durable);
    }
  }

  #settle(taken: readonly Delivery[], durable: boolean): void {
    const { subscription } = this.#options;
    for (const delivery of taken) {
      this.#waiting.push(delivery);
      if (durable) continue;
      subscription.taken(delivery);
      delivery.events = [];
    }
    if (!durable) return;
    this.#savedAt = performance.now();
    for (const delivery of this.#waiting.splice(0)) subscription.applied(delivery);
  }

  /**
   * How many pending deliveries to apply now; 0 = wait for more. Source transactions stay whole as long as they fit
   * into a batch; a larger one is applied in parts.
   */
  #ready(): number {
    let rows = 0;
    let bytes = 0;
    let complete = 0;
    let least: BatchConfig | null = null;
    for (const [i, { delivery, batching }] of this.#pending.entries()) {
      if (batching) least = least ? smaller(least, batching) : batching;
      // Copied rows cost a store no more in a large transaction: only their bytes bound it.
      rows += delivery.events.length;
      bytes += delivery.bytes;
      const full = least !== null && (rows >= least.rowsMax || bytes >= least.bytesMax);
      if (delivery.complete) complete = i + 1;
      if (full) return complete || i + 1;
    }
    return complete > 0 && performance.now() >= this.#dueAt() ? complete : 0;
  }

  /** When what is pending has lingered long enough. */
  #dueAt(): number {
    if (this.#haste === 'now') return 0;
    if (this.#pendingEvents === 0) return this.#haste === 'idle' ? 0 : this.#savedAt + IDLE_SAVE_MS;
    // Order is kept: with one, all before it is due.
    let due = Number.POSITIVE_INFINITY;
    for (const { dueAt } of this.#pending) if (dueAt < due) due = dueAt;
    return due;
  }

  /** Until something arrives, or what is pending has lingered long enough. */
  async #pause(): Promise<void> {
    const whole = this.#pending.some(({ delivery }) => delivery.complete);
    const waitMs = whole ? Math.max(1, this.#dueAt() - performance.now()) : null;
    await new Promise<void>((resolve) => {
      const timer = waitMs === null ? null : setTimeout(resolve, waitMs);
      this.#wake = () => {
        if (timer) clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = null;
  }

  /** True = durable, false = in an open transaction of the sink, null = given up, since the loop is to end. */
  async #apply(delivery: Delivery, signal: AbortSignal): Promise<boolean | null> {
    const { sink, log } = this.#options;
    for (let backoffMs = BACKOFF_FIRST_MS; ; ) {
      try {
        const selected = this.#following.select(delivery.events);
        const events = sink.takesCopies ? selected : eachRow(selected);
        const durable = await sink.apply({ ...delivery, events });
        this.#following.applied();
        this.#lastError = null;
        this.#batches++;
        this.#count(events);
        if (durable && !delivery.complete && this.#waiting.length > 0) this.#noteSplit(delivery);
        return durable;
      } catch (error) {
        this.#lastError = messageOf(error);
        const rejected = error instanceof RejectedError;
        if (rejected) await this.#stop(error, delivery.events);
        else if (!(error instanceof WaltideError) || !error.retry) throw error;
        if (this.#waiting.length > 0) return this.#lose(error, signal);
        if (rejected) continue;
        this.#retries++;
        log.warn({ sink: sink.name, retryInMs: backoffMs }, `${error.message}; trying again. ${error.help}`);
        await sleep(backoffMs, undefined, { signal }).catch(() => {});
        if (signal.aborted) return null;
        backoffMs = Math.min(backoffMs * 2, BACKOFF_MAX_MS);
      }
    }
  }

  /** Parts of the transaction are gone with it, and nobody here has them any more. */
  async #lose(error: WaltideError, signal: AbortSignal): Promise<null> {
    const { sink, log, beginAgain } = this.#options;
    this.#retries++;
    log.warn({ sink: sink.name }, `${error.message}; the whole transaction is applied again. ${error.help}`);
    if (!(error instanceof RejectedError)) await sleep(BACKOFF_LOST_MS, undefined, { signal }).catch(() => {});
    if (signal.aborted) return null;
    beginAgain(`sink "${sink.name}" lost an open transaction: ${error.message}`);
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
      'a source transaction is larger than transactionBytesMax: readers see parts of it until all of it is applied',
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

  #count(events: readonly ChangeEvent[]): void {
    this.#events += countRows(events);
    let name = '';
    let relation: ChangeEvent['relation'] = null;
    let run = 0;
    const flush = (): void => {
      if (run > 0) this.#tables.set(name, (this.#tables.get(name) ?? 0) + run);
    };
    for (const event of events) {
      if (event.relation !== relation) {
        flush();
        run = 0;
        relation = event.relation;
        name = relation ? relationName(relation) : '(messages)';
      }
      run += event instanceof CopyEvent ? event.copied.count : 1;
    }
    flush();
  }
}

function merge(deliveries: readonly Delivery[]): Delivery {
  if (deliveries.length === 1) return deliveries[0]!;
  const events: ChangeEvent[] = [];
  const offsets = new Map<string, Offset>();
  let bytes = 0;
  for (const delivery of deliveries) {
    for (const event of delivery.events) events.push(event);
    for (const offset of delivery.offsets) offsets.set(offset.partition, offset);
    bytes += delivery.bytes;
  }
  return { events, bytes, offsets: [...offsets.values()], complete: deliveries.at(-1)!.complete };
}
