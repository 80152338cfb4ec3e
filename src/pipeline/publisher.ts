import type { Config } from '../config/schema.ts';
import type { Batch } from '../event/batch.ts';
import { countRows } from '../event/copied-rows.ts';
import type { Lsn } from '../event/lsn.ts';
import { failpoint } from '../failpoint.ts';
import { BYTES, Histogram, ROWS } from '../histogram.ts';
import type { Tracer } from '../tracing/tracer.ts';
import type { Transport } from '../transport/transport.ts';
import { Acknowledger } from './acknowledger.ts';
import { LagClock } from './lag.ts';
import type { RecentEvents } from './recent-events.ts';
import type { RetainWindow } from './retain.ts';

export interface PublisherOptions {
  readonly config: Config;
  readonly transport: Transport;
  readonly retain: RetainWindow;
  readonly recent: RecentEvents;
  /** Null where nobody wants to know. */
  readonly tracer: Tracer | null;
  readonly acknowledge: (lsn: Lsn, durable: Lsn) => void;
  /** When the last bytes came from the source, Unix time. */
  readonly receivedAtMs: () => number;
}

/** Hands batches to the transport, keeps them within the budget, and acknowledges what is durable. */
export class Publisher {
  readonly #options: PublisherOptions;
  readonly #acknowledger = new Acknowledger();
  readonly #waiting = new Set<() => void>();
  #failure: unknown = null;
  readonly lag = new LagClock();
  events = 0;
  bytes = 0;
  batches = 0;
  /** Of batches with events. */
  readonly sizes = { rows: new Histogram(ROWS), bytes: new Histogram(BYTES) };
  /** Everything committed before it has been given to the transport. */
  lsn: Lsn = 0n;

  constructor(options: PublisherOptions) {
    this.#options = options;
    options.transport.onFreed = () => this.#wakeAll();
  }

  /** Everything before this LSN is durable downstream. */
  get durableLsn(): Lsn {
    return this.#acknowledger.lsn;
  }

  /** `hold`: the batch is not acknowledged before that, however durable it is. `told`: called once it is durable. */
  publish(batch: Batch, hold: Promise<unknown> | null, told: (() => void) | null): void {
    const { transport, retain, recent, tracer, acknowledge, receivedAtMs } = this.#options;
    const last = batch.events.at(-1);
    const span = last && tracer ? tracer.captured(batch, receivedAtMs()) : null;
    if (last) this.#noteSize(batch);
    recent.note(batch.events);
    const commitTimeMs =
      last && !last.transaction.snapshot ? Number(last.transaction.commitTimeUs / 1000n) : Date.now();
    if (batch.commitEndLsn !== null) {
      this.lsn = batch.commitEndLsn;
      this.lag.note(batch.commitEndLsn, commitTimeMs);
      retain.note(batch.commitEndLsn, performance.now());
    }
    const durable = this.#acknowledger.track(batch.commitEndLsn);
    // Filters let nothing of it through, and it ends inside a transaction: there is nothing to carry.
    const nothing = batch.events.length === 0 && batch.commitEndLsn === null;
    (nothing ? Promise.resolve() : transport.publish(span ? { ...batch, trace: span.ref } : batch))
      .then(() => {
        span?.end();
        told?.();
        return hold;
      })
      .then(() => {
        failpoint('before-acknowledge');
        const lsn = durable();
        acknowledge(retain.release(lsn, performance.now()), lsn);
      })
      .catch((error: unknown) => {
        span?.end(error);
        this.#failure ??= error;
      })
      .finally(() => this.#wakeAll());
  }

  #noteSize({ events, bytes }: Batch): void {
    const rows = countRows(events);
    this.events += rows;
    this.bytes += bytes;
    this.batches++;
    this.sizes.rows.observe(rows);
    this.sizes.bytes.observe(bytes);
  }

  #wakeAll(): void {
    for (const wake of [...this.#waiting]) wake();
  }

  /** The backpressure: waits while more is in flight than the budget allows. Rejects where publishing has failed. */
  async room(signal: AbortSignal): Promise<void> {
    const { transport, config } = this.#options;
    await this.#until(() => transport.bytesInFlight <= config.transport.inFlightBytesMax, signal);
    this.throwFailure();
  }

  /** Resolves when every whole transaction that was published is durable, when publishing fails, or when `signal` aborts. */
  drained(signal: AbortSignal): Promise<void> {
    return this.#until(() => this.#acknowledger.settled, signal);
  }

  get settled(): boolean {
    return this.#acknowledger.settled;
  }

  throwFailure(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** Waits for a condition that only publishing and sinks change; returns early on failure and abort. */
  async #until(condition: () => boolean, signal: AbortSignal): Promise<void> {
    while (!condition() && this.#failure === null && !signal.aborted) {
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          signal.removeEventListener('abort', wake);
          this.#waiting.delete(wake);
          resolve();
        };
        this.#waiting.add(wake);
        signal.addEventListener('abort', wake, { once: true });
      });
    }
  }
}
