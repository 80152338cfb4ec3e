import type { Strategy } from '../config/strategy.ts';
import type { Lsn } from '../event/lsn.ts';

export type OperationType = 'create' | 'update' | 'delete';
/** What the answer waits for: strong the sinks, eventual the commit, weak a durable place in the queue. */
export type ConsistencyLevel = 'strong' | 'eventual' | 'weak';

export type JsonValue = string | number | boolean | null | readonly JsonValue[] | { readonly [key: string]: JsonValue };
/** Values by column, as JSON has them; whatever JSON cannot say (large numbers, dates, bytes) as PostgreSQL's text. */
export type JsonRow = { readonly [column: string]: JsonValue };

/** A write to one row of a captured table. */
export interface WriteRequest {
  /** `schema.table`, or the table alone where only one of that name is captured. */
  readonly table: string;
  readonly type: OperationType;
  /** Of the row to update or delete: by column, or the value where the key has one column. */
  readonly primaryKey?: JsonValue;
  readonly data?: JsonRow;
  /** Default: `writes.consistency`. */
  readonly consistency?: ConsistencyLevel;
  /** real_time: what is on its way does not linger for more, whatever the table's own strategy says. */
  readonly strategy?: Strategy;
  /** Names of those that a strong write waits for; all when left out. */
  readonly sinks?: readonly string[];
  /** How long a strong write waits for them. Default: `writes.timeoutMs`. */
  readonly timeoutMs?: number;
  /** A UUID of the caller's: asked for a second time, nothing is written again. */
  readonly id?: string;
}

/** applied: committed, and every sink that was asked for has it, as far as this process knows. */
export type OperationState = 'queued' | 'committed' | 'applied' | 'failed';

/** What became of a write. */
export interface Operation {
  readonly id: string;
  /** `schema.table` */
  readonly table: string;
  readonly type: OperationType;
  readonly consistency: ConsistencyLevel;
  readonly strategy: Strategy | null;
  readonly state: OperationState;
  /** Null while it is queued and not known: that of a new row may come from a sequence. */
  readonly primaryKey: JsonRow | null;
  /** The token: whoever waits until a sink has applied it, reads the write there. Null until it is committed. */
  readonly lsn: Lsn | null;
  readonly sinks: readonly SinkReached[];
  readonly attempts: number;
  readonly error: { readonly code: string; readonly message: string } | null;
  readonly createdAt: Date;
  readonly finishedAt: Date | null;
}

export interface SinkReached {
  readonly name: string;
  readonly appliedLsn: Lsn;
  readonly reached: boolean;
}

/** What a writer needs of the pipeline that holds the sinks. */
export interface SinkSide {
  status(): {
    readonly sinks: readonly {
      readonly name: string;
      readonly appliedLsn: string;
      readonly stopped: readonly { readonly name: string }[];
    }[];
  };
  waitFor(
    lsn: Lsn,
    options: {
      sinks: readonly string[];
      timeoutMs: number;
      table: { readonly schema: string; readonly table: string };
      atOnce: boolean;
    },
  ): Promise<{ readonly sinks: readonly SinkReached[] }>;
}
