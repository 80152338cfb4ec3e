import type { Delivery } from '../event/batch.ts';
import type { Offset, SourceIdentity } from '../event/offset.ts';
import type { Relation } from '../event/relation.ts';

/** A table that a sink no longer follows, and why. Set durably; no restart takes it up again by itself. */
export interface StoppedTable {
  readonly schema: string;
  readonly table: string;
  readonly reason: string;
}

export interface SinkState {
  /** Where to go on, one per partition; empty for a sink that has never applied anything. */
  readonly offsets: readonly Offset[];
  readonly stopped: readonly StoppedTable[];
}

export interface QueryResult {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly unknown[])[];
  /** True where `rowsMax` cut the result. */
  readonly truncated: boolean;
}

/** Where changes end up. A new kind of sink is one folder and one line in `registry.ts`. */
export interface Sink {
  readonly name: string;
  /** transactional: rows and offset in one transaction. idempotent: rows, then offset; applying again changes nothing. */
  readonly delivery: 'transactional' | 'idempotent';
  /** Opens or creates the target. Rejects where its offsets belong to another cluster or slot. */
  open(identity: SourceIdentity): Promise<SinkState>;
  /**
   * Resolves = events and offsets are durable. Events already seen and those of stopped tables have been removed.
   * Rejects with a RejectedError where one table's data cannot be held (nothing of the delivery is applied then),
   * with a WaltideError of retryable code where trying again may help.
   */
  apply(delivery: Delivery): Promise<void>;
  /** Resolves = the table is durably marked as stopped. */
  stopTable(relation: Relation, reason: string): Promise<void>;
  /** Read-only SQL for `waltide query`, where the store speaks SQL. Rejects after `timeoutMs`. */
  query?(sql: string, limits: { rowsMax: number; timeoutMs: number }): Promise<QueryResult>;
  close(): Promise<void>;
}
