import type { Batch, Delivery } from '../event/batch.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Offset, SourceIdentity } from '../event/offset.ts';
import type { Position } from '../event/position.ts';
import type { CapturedTables } from '../postgres/captured.ts';

export interface SubscribeOptions {
  /** transaction: whole source transactions in commit order; table (default): order within a table only. */
  readonly consistency?: 'table' | 'transaction';
  readonly instance?: string | null; // The store that the sink writes to: a second one under its name is refused with SINK_LOCKED.
}

export type TableName = { readonly schema: string; readonly table: string; readonly home?: TableName };
export type StartOf = { readonly lsn: Lsn } | { readonly time: Date };
/** What to rewind to, one per partition that has any of it. */
export interface Located {
  readonly offsets: readonly Offset[];
  /** Partitions that may lack some of it, with the first position that they do hold (null for none). */
  readonly removed: readonly { readonly partition: string; readonly first: Position | null }[];
}

export interface Transport {
  /**
   * Capture side: prepares topics and producer. `confirmed` is the LSN that the slot has acknowledged (null for a
   * new slot); rejects with `SLOT_AHEAD` where the transport has not stored everything up to there. `captured` may change later.
   */
  openCapture(identity: SourceIdentity, confirmed: Lsn | null, captured?: CapturedTables): Promise<void>;
  refusal?(table: TableName, beside: Iterable<TableName>): string | null; // Why it cannot be captured beside those.
  /** Resolves = durable: in-process every sink has applied it, on Kafka the in-sync replicas have it. Calls keep their order. */
  publish(batch: Batch): Promise<void>;
  readonly bytesInFlight: number; // Published, and neither durable nor taken. The source waits while it exceeds its budget.
  putLetter?(text: string): Promise<void>; // A dead letter of a sink, for others to see. Resolves = durable.
  onFreed?: () => void; // Set by the capture, called when `bytesInFlight` falls.
  readonly unreachable?: boolean; // Nobody has answered for a while: to wait for what is in flight gains nothing.
  /** Apply side: the identity of what flows here; waits until a capture has opened the transport once. */
  identity(signal: AbortSignal): Promise<SourceIdentity>;
  /** Starts after the offsets that the *sink* saved, never from a consumer group's. */
  subscribe(sink: string, from: readonly Offset[], options?: SubscribeOptions): Promise<Subscription>;
  /** What was committed at or after `from`, of these tables or (null) all. Rejects with TOPIC_MISSING for one never published. */
  locate(tables: readonly TableName[] | null, from: StartOf, saved: readonly Offset[]): Promise<Located>;
  close(): Promise<void>;
}

export interface Subscription {
  /** The sink had no offsets and the copy is no longer in the log: it starts now, and needs snapshots of everything. */
  readonly startsEmpty: boolean;
  /** Resolves with the next events, at least one event or one offset; rejects with the signal's reason when aborted. */
  receive(signal: AbortSignal): Promise<Delivery>;
  /** The sink keeps nothing of the delivery in memory any more, though it may not be durable: frees the budget. */
  taken(delivery: Delivery): void;
  /** The sink has `offsets` durably; frees the budget and, in-process, lets the slot be acknowledged. */
  applied(delivery: Delivery): void;
  /** Everything committed before this LSN is in the sink, as far as `applied` has been told; 0 when unknown. */
  appliedLsn(): Lsn;
  receivedLsn(): Lsn; // As appliedLsn, of what `receive` has handed out.
  onAdvanced?: () => void; // Set by the pipeline, called when `appliedLsn` may have grown.
  publishedLsn(): Lsn; // As appliedLsn, of what has been published, as far as is known here.
  close(): Promise<void>;
}
