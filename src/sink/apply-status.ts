import type { HistogramStatus } from '../histogram.ts';
import type { Backlog } from './backlog.ts';
import type { BreakerState } from './breaker.ts';
import type { FollowedTable, StoppedTable } from './sink.ts';

export interface AppliedTable {
  readonly name: string;
  readonly events: number;
  /** Of the newest change that was streamed, in Unix milliseconds; null where there was none. */
  readonly committedAtMs: number | null;
}

/** Of the batches applied, those without events left out. */
export interface BatchSizes {
  readonly rows: HistogramStatus;
  readonly bytes: HistogramStatus;
  /** How long the sink took, in seconds. */
  readonly seconds: HistogramStatus;
  /** From the commit of the oldest change in it until the batch was durable, in seconds. */
  readonly delaySeconds: HistogramStatus;
}

/** What is too much to be put together for everyone who asks how the loop is. */
export interface ApplyMeasures {
  /** What was applied of each table since the start; of tables that are gone, nothing. */
  readonly tables: readonly AppliedTable[];
  readonly sizes: BatchSizes;
  /** What has come and is not durable in the sink, as of a second ago at most. */
  readonly backlog: Backlog;
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
  /** Since when the present batch has been under way, in Unix milliseconds; null when idle. Liveness watches it. */
  readonly busySince: number | null;
  readonly lastError: string | null;
  readonly breaker: BreakerState;
  /** How often it has opened. */
  readonly breakerOpened: number;
}
