import type { BatchConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { Delivery } from '../event/batch.ts';
import { CopyEvent, countRows, LARGE_CHUNK_ROWS } from '../event/copied-rows.ts';
import type { Offset } from '../event/offset.ts';
import { comparePosition, type Position } from '../event/position.ts';
import type { Relation } from '../event/relation.ts';
import { Histogram, SECONDS } from '../histogram.ts';
import type { Tracer } from '../tracing/tracer.ts';
import type { Subscription } from '../transport/transport.ts';
import type { ApplyMeasures, ApplyStatus } from './apply-status.ts';
import { Applying, type ApplyingOptions } from './applying.ts';
import { type Backlog, firstChange, noteOldest } from './backlog.ts';
import { Besides, type BesideWork } from './besides.ts';
import { merge } from './deliveries.ts';
import { type Pace, smaller } from './pace.ts';
import type { Refused } from './refused.ts';

/** An idle stream's keepalives and heartbeats need not cost the sink a transaction each. */
const IDLE_SAVE_MS = 200;
/** Every change that waits is looked at for a backlog; whoever asks often gets the last one. */
const BACKLOG_TTL_MS = 1_000;

export interface ApplyLoopOptions extends ApplyingOptions {
  readonly subscription: Subscription;
  readonly pace: Pace;
  /** Null where nobody wants to know. */
  readonly tracer?: Tracer | null;
}

/** What somebody waits for: idle = where the stream is, though nothing changes; now = what has come, before it has lingered. */
export type Haste = 'none' | 'idle' | 'now';

interface Pending {
  readonly delivery: Delivery;
  /** By `performance.now`, in ms. */
  readonly dueAt: number;
  /** Null where it brings no events: it is in no hurry, and fills nothing. */
  readonly batching: BatchConfig | null;
  /** It is not put together with others. */
  readonly alone: boolean;
}

/**
 * Drives one sink: takes deliveries, puts them together into batches that are worth a transaction, and has them applied.
 */
export class ApplyLoop {
  readonly #options: ApplyLoopOptions;
  readonly #applying: Applying;
  readonly #pending: Pending[] = [];
  #pendingBytes = 0;
  #pendingEvents = 0;
  #haste: Haste = 'none';
  #savedAt = Number.NEGATIVE_INFINITY;
  /** When the last batch was done, by `performance.now`. */
  #doneAt = performance.now();
  /** What waits in the sink's open transaction, without its events. */
  readonly #waiting: Delivery[] = [];
  readonly #besides = new Besides();
  /** How far the sink has come since the loop began, by partition. */
  readonly #saved = new Map<string, Position>();
  /** Chunks that are durable and whose offsets are not. */
  readonly #unsaved: Delivery[] = [];
  /** What is being applied. */
  #applied: readonly Delivery[] = [];
  /** Of `#waiting`. */
  readonly #waitingBacklog: Backlog = new Map();
  #backlog: { readonly oldest: Backlog; readonly at: number } | null = null;
  /** When the oldest change of what is not durable yet was committed, in Unix ms; null where nothing waits. */
  #oldestMs: number | null = null;
  readonly #delay = new Histogram(SECONDS);
  #wake: (() => void) | null = null;
  #room: (() => void) | null = null;
  /** What waits until nothing is being applied. */
  readonly #between: (() => Promise<void>)[] = [];

  constructor(options: ApplyLoopOptions) {
    this.#options = options;
    this.#applying = new Applying(options);
  }

  get status(): ApplyStatus {
    return { ...this.#applying.status, pendingEvents: this.#pendingEvents, pendingBytes: this.#pendingBytes };
  }

  get measures(): ApplyMeasures {
    const { tables, sizes } = this.#applying;
    return { tables, sizes: { ...sizes, delaySeconds: this.#delay.status }, backlog: this.#oldest() };
  }

  #oldest(): Backlog {
    if (this.#pendingEvents === 0 && this.#applied.length === 0 && this.#waiting.length === 0) return new Map();
    const now = performance.now();
    if (this.#backlog && now - this.#backlog.at < BACKLOG_TTL_MS) return this.#backlog.oldest;
    const oldest: Backlog = new Map(this.#waitingBacklog);
    for (const { events } of this.#applied) noteOldest(oldest, events);
    for (const { delivery } of this.#pending) noteOldest(oldest, delivery.events);
    this.#backlog = { oldest, at: now };
    return oldest;
  }

  /** The table as the sink has it, or as the last change of it that came by; null where neither is known. */
  relationOf(oid: number): Relation | null {
    return this.#applying.relationOf(oid);
  }

  /** Rows that were set aside for the sink; null where it sees to them itself. */
  get refused(): Refused | null {
    return this.#applying.refused;
  }

  /** Does `work` when nothing is being applied and no transaction of the sink is open, before anything that comes later. */
  between<T>(work: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#between.push(() => work().then(resolve, reject));
      this.#wake?.();
    });
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
      this.#pending.push({ delivery, dueAt, batching, alone: isLargeChunk(delivery) });
      this.#pendingBytes += delivery.bytes;
      this.#pendingEvents += countRows(delivery.events);
      this.#wake?.();
      // One batch is being applied, one may wait; the rest stays with the transport, which has its own bound.
      while (this.#pendingBytes > pace.bytesMax * 2 && !signal.aborted)
        await new Promise<void>((resolve) => (this.#room = resolve));
    }
  }

  async #applyAll(signal: AbortSignal): Promise<void> {
    await this.#applying.load();
    while (!signal.aborted) {
      if (!(await this.#settleBesides(signal))) return;
      if (this.#waiting.length === 0 && this.#between.length > 0) {
        if (this.#besides.size === 0) await this.#between.shift()!();
        else await this.#besides.settled();
        continue;
      }
      if (this.#waiting.length === 0) {
        // Their offsets are saved with what comes next, and before that nobody is told: the slot must not pass them.
        const pending = { batching: null, alone: false, dueAt: 0 };
        this.#pending.unshift(...this.#unsaved.splice(0).map((delivery) => ({ ...pending, delivery })));
      }
      const count = this.#ready();
      if (count === 0) {
        if (!this.#besides.anyDone(this.#waiting.length === 0)) await this.#pause();
        continue;
      }
      const alone = this.#pending[count - 1]!.alone;
      const taken = this.#pending.splice(0, count).map(({ delivery }) => delivery);
      const merged = merge(taken);
      this.#pendingBytes -= merged.bytes;
      this.#pendingEvents -= countRows(merged.events);
      this.#room?.();
      if (alone && (await this.#beside(taken, merged))) continue;
      if (this.#besides.size > 0) {
        const before = await this.#besides.before(merged.events);
        if (before.length > 0 && this.#waiting.length > 0)
          return void (await this.#applying.lose(chunkLost(this.#options.sink.name), signal));
        if (!(await this.#settleBesides(signal))) return;
      }
      if (!(await this.#applyBatch(taken, merged, signal))) return;
    }
  }

  /** False where the loop is to end. */
  async #applyBatch(taken: readonly Delivery[], merged: Delivery, signal: AbortSignal): Promise<boolean> {
    this.#applied = taken;
    this.#oldestMs ??= firstChange(merged.events)?.committedAtMs ?? null;
    const began = performance.now();
    const durable = await this.#apply(merged, signal);
    const done = performance.now();
    this.#options.pace.spent((done - began) / Math.max(done - this.#doneAt, 1));
    this.#doneAt = done;
    if (durable === null) return false;
    this.#settle(taken, durable);
    return true;
  }

  async #beside(taken: readonly Delivery[], chunk: Delivery): Promise<boolean> {
    const beside = await this.#applying.beside(chunk);
    if (beside) this.#besides.add(taken, chunk, beside, () => this.#wake?.());
    return beside !== null;
  }

  /** What became of chunks beside the stream. False where the loop is to end. */
  async #settleBesides(signal: AbortSignal): Promise<boolean> {
    for (;;) {
      // What is open must end first: a turn in between would end it too early.
      const work = this.#besides.takeDone(this.#waiting.length === 0);
      if (!work) return true;
      if (!(await this.#settleBeside(work, signal))) return false;
    }
  }

  async #settleBeside(
    { deliveries, chunk, beside, began, outcome }: BesideWork,
    signal: AbortSignal,
  ): Promise<boolean> {
    if (outcome === 'durable') {
      this.#applying.appliedBeside(chunk, (performance.now() - began) / 1000);
      for (const delivery of deliveries) {
        delivery.events = [];
        delivery.bytes = 0;
      }
      for (const delivery of deliveries) {
        if (delivery.offsets.every((offset) => this.#isSaved(offset))) this.#options.subscription.applied(delivery);
        else this.#unsaved.push(delivery);
      }
      return true;
    }
    if (outcome === 'rest') return this.#applyBatch(deliveries, await beside.rest(), signal);
    await this.#applying.lose(outcome!, signal);
    return false;
  }

  async #apply(delivery: Delivery, signal: AbortSignal): Promise<boolean | null> {
    const { sink, tracer } = this.#options;
    const span = tracer && delivery.events.length > 0 ? tracer.applying(sink.name, delivery) : null;
    try {
      const durable = await this.#applying.apply(delivery, this.#waiting.length > 0, signal);
      span?.end();
      return durable;
    } catch (error) {
      span?.end(error);
      throw error;
    }
  }

  #settle(taken: readonly Delivery[], durable: boolean): void {
    const { subscription } = this.#options;
    for (const delivery of taken) {
      this.#waiting.push(delivery);
      if (durable) continue;
      noteOldest(this.#waitingBacklog, delivery.events);
      subscription.taken(delivery);
      delivery.events = [];
    }
    this.#applied = [];
    if (!durable) return;
    this.#waitingBacklog.clear();
    if (this.#oldestMs !== null) this.#delay.observe(Math.max(0, Date.now() - this.#oldestMs) / 1000);
    this.#oldestMs = null;
    this.#savedAt = performance.now();
    for (const delivery of this.#waiting.splice(0)) {
      for (const offset of delivery.offsets)
        if (!this.#isSaved(offset)) this.#saved.set(offset.partition, offset.position);
      this.#applying.saved(delivery.offsets);
      subscription.applied(delivery);
    }
  }

  #isSaved({ partition, position }: Offset): boolean {
    const saved = this.#saved.get(partition);
    return saved !== undefined && comparePosition(position, saved) <= 0;
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
    for (const [i, { delivery, batching, alone }] of this.#pending.entries()) {
      // What only says how far the stream is goes with it.
      if (alone && complete === i) return least === null ? i + 1 : i;
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
    // Order is kept: with one, all before it is due.
    let due = Number.POSITIVE_INFINITY;
    for (const { dueAt } of this.#pending) if (dueAt < due) due = dueAt;
    if (this.#pendingEvents === 0) return this.#haste === 'idle' ? 0 : Math.min(due, this.#savedAt + IDLE_SAVE_MS);
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
}

function chunkLost(sink: string): WaltideError {
  const what = `sink ${sink} could not apply a chunk of a snapshot before the end of a long transaction`;
  return new WaltideError('SINK', what, 'Nothing to do: both are read again.');
}

/**
 * True for a batch of its own: DuckDB stores whole row groups past its log only where the same transaction changes none of their
 * rows. Those of the first copy have nothing between them, and are worth more together.
 */
function isLargeChunk({ events, complete }: Delivery): boolean {
  const first = events[0];
  return (
    complete &&
    first instanceof CopyEvent &&
    first.transaction.snapshot?.kind !== 'initial' &&
    countRows(events) >= LARGE_CHUNK_ROWS
  );
}
