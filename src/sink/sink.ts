import type { Letters } from '../dead-letter/dead-letter.ts';
import type { Delivery } from '../event/batch.ts';
import type { Offset, SourceIdentity } from '../event/offset.ts';
import type { Relation } from '../event/relation.ts';
import type { Digestible } from '../validation/validation.ts';
import type { Beside } from './beside.ts';
import type { Losses } from './losses.ts';
import type { Upkeep } from './upkeep.ts';

/** A table that a sink no longer follows, and why. Durable; no restart takes it up again by itself. */
export interface StoppedTable {
  readonly schema: string;
  readonly table: string;
  readonly reason: string;
}

/** What a sink holds of a table. It may be live and being filled again at once. */
export interface FollowedTable extends Omit<StoppedTable, 'reason'> {
  readonly oid?: number; // Kept by a renamed table; 0 or absent where it is not known.
  readonly live: boolean; // A snapshot of it was completed: it holds every row of the source as of the sink's offset.
  readonly filling: string | null; // Id of the snapshot being gathered beside what is live.
}

export interface SinkState {
  /** Where to go on, one per partition; empty for a sink that has never applied anything. `timeline`: the server's of then. */
  readonly offsets: readonly Offset[];
  readonly timeline?: number;
  readonly instance?: string; // The store itself: see SubscribeOptions.
  readonly stopped: readonly StoppedTable[];
  readonly tables: readonly FollowedTable[] | null; // Null = it does not remember tables: it gets all but snapshots for others.
}

export interface QueryResult {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly unknown[])[];
  readonly truncated: boolean; // `rowsMax` cut the result.
}

/** Where changes end up. A new kind of sink is one folder and one line in `registry.ts`. */
export interface Sink extends Upkeep {
  readonly name: string;
  readonly delivery: 'transactional' | 'idempotent'; // Rows and offset at once; or rows first, and applying again changes nothing.
  readonly takesCopies?: true; // Rows as COPY sent them (CopyEvent); any other sink gets an event for each.
  readonly setsAside?: true; // It tells `letters` itself which rows it lacks; for any other sink the apply loop does.
  open(identity: SourceIdentity, letters?: Letters): Promise<SinkState>; // Rejects where offsets belong to another cluster or slot.
  /** Resolves with true = events and offsets are durable, and those of all deliveries before. With false = the delivery ended inside a
   * source transaction, and waits in an open transaction of the sink until the rest of it has come. Events already seen, those of stopped
   * tables and of tables that the sink does not follow have been removed. Rejects, with nothing of the delivery applied, with a
   * RejectedBatchError where it cannot hold some events, a RejectedError where it cannot hold a table, a retryable WaltideError. */
  apply(delivery: Delivery): Promise<boolean>;
  beside?(chunk: Delivery): Promise<Beside | null>; // Begins to apply it beside what comes next; null: it must have its turn.
  stopTable(relation: Relation, reason: string, how: { snapshotGoesOn: boolean; refill: boolean }): Promise<void>; // `refill`: until a new snapshot.
  rewind?(to: readonly Offset[], tables: readonly { schema: string; table: string }[] | null): Promise<void>; // Durably: what came since comes again.
  query?(sql: string, limits: { rowsMax: number; timeoutMs: number }): Promise<QueryResult>; // Read-only; rejects after `timeoutMs`.
  readonly digests?: Digestible; // What `waltide validate` compares with the source.
  relationOf?(oid: number): Relation | null; // The table as the sink holds it by now.
  losses?(): Losses | null; // Null where the sink is not open.
  close(): Promise<void>;
}
