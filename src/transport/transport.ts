import type { Batch, Delivery } from '../event/batch.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Offset, SourceIdentity } from '../event/offset.ts';

/** Between source and sinks. Two kinds, one engine: what a sink sees does not depend on which. */
export interface Transport {
  /**
   * Capture side: prepares topics and producer. `confirmed` is the LSN that the slot has acknowledged (null for a
   * new slot); rejects with `SLOT_AHEAD` where the transport has not stored everything up to there.
   */
  openCapture(identity: SourceIdentity, confirmed: Lsn | null): Promise<void>;
  /** Resolves = durable: in-process every sink has applied it, on Kafka the in-sync replicas have it. Calls keep their order. */
  publish(batch: Batch): Promise<void>;
  /** What is in flight: published, not yet durable. The source waits while it exceeds its budget. */
  readonly bytesInFlight: number;
  /** Apply side: the identity of what flows here; waits until a capture has opened the transport once. */
  identity(signal: AbortSignal): Promise<SourceIdentity>;
  /** Starts after the offsets that the *sink* saved, never from a consumer group's. */
  subscribe(sink: string, from: readonly Offset[]): Promise<Subscription>;
  close(): Promise<void>;
}

export interface Subscription {
  /** Resolves with the next events, at least one event or one offset; rejects with the signal's reason when aborted. */
  receive(signal: AbortSignal): Promise<Delivery>;
  /** The sink keeps nothing of the delivery in memory any more, though it may not be durable: frees the budget. */
  taken(delivery: Delivery): void;
  /** The sink has `offsets` durably; frees the budget and, in-process, lets the slot be acknowledged. */
  applied(delivery: Delivery): void;
  /** Everything committed before this LSN is in the sink, as far as `applied` has been told; 0 when unknown. */
  appliedLsn(): Lsn;
  /** Everything committed before this LSN has been published, as far as is known here; 0 when unknown. */
  publishedLsn(): Lsn;
  close(): Promise<void>;
}
