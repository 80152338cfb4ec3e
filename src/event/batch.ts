import type { ChangeEvent } from './change-event.ts';
import type { Lsn } from './lsn.ts';
import type { Offset } from './offset.ts';

/**
 * What moves from source to transport: many events in order. A batch holds whole transactions, or a part of one.
 * An empty batch with a `commitEndLsn` is a keepalive, a heartbeat or the end of a snapshot: it takes the same
 * road as data, so that it can never be acknowledged ahead of it.
 */
export interface Batch {
  readonly events: readonly ChangeEvent[];
  /** Bytes of memory that the events keep alive; what the in-flight budget counts. */
  readonly bytes: number;
  /**
   * Once this batch and all before it are durable, the slot may be acknowledged up to here.
   * Null where the batch ends inside a transaction.
   */
  readonly commitEndLsn: Lsn | null;
  /** Absent where it is not traced. */
  readonly trace?: TraceRef;
}

/** Names a span to whoever goes on with its work: OpenTelemetry's SpanContext. */
export interface TraceRef {
  readonly traceId: string;
  readonly spanId: string;
  readonly traceFlags: number;
}

/** What moves from transport to sink: events in order per partition, and where each partition stands after them. */
export interface Delivery {
  /** Emptied once the sink has taken the delivery, when it counts only until it is durable; its bytes are 0 once they are, too. */
  events: readonly ChangeEvent[];
  bytes: number;
  /** To be saved together with the events, one per partition touched. */
  readonly offsets: readonly Offset[];
  /**
   * False where the delivery ends inside a source transaction; rows of a snapshot are none. Always true where only the
   * order per table is kept.
   */
  readonly complete: boolean;
  /** Of the batches in it. Absent where they are not traced, or came through a log. */
  readonly traces?: readonly TraceRef[];
}
