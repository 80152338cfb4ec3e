import type { Delivery } from '../event/batch.ts';
import type { ChangeEvent } from '../event/change-event.ts';

/** A chunk of a snapshot that a sink applies while it applies what came after it. */
export interface Beside {
  /**
   * Resolves with true = its rows are durable (its offsets are not: they are to be applied with what comes next), with false = they
   * are not, and `rest` is to be applied in its turn. Rejects where only beginning again from what is durable mends it.
   */
  readonly done: Promise<boolean>;
  /** True where the events may be applied before it is done: rows that they change count as newer than the chunk's. */
  passes(events: readonly ChangeEvent[]): boolean;
  /** Rows that nothing which passed has changed. Once `done` has resolved with false. */
  rest(): Promise<Delivery>;
}
