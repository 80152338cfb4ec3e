import type { BreakerState } from './breaker.ts';
import type { FollowedTable, StoppedTable } from './sink.ts';

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
  readonly breaker: BreakerState;
}
