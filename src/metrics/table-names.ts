import type { SinkStatus } from '../pipeline/status.ts';

/** All that have no name of their own. */
export const OTHERS = '(others)';

/**
 * Which tables have time series of their own: a bounded number, the busiest first. One that has them keeps them as long as
 * it is there, since a series that comes and goes tells nothing.
 */
export class TableNames {
  readonly #max: number;
  readonly #named = new Set<string>();
  readonly #seen = new Set<string>();

  constructor(max: number) {
    this.#max = max;
  }

  /** A scrape begins. What the last one has not seen is gone. */
  begin(sinks: readonly Pick<SinkStatus, 'tables'>[]): void {
    for (const name of this.#named) if (!this.#seen.has(name)) this.#named.delete(name);
    this.#seen.clear();
    const tables = sinks.flatMap((sink) => sink.tables);
    if (tables.length > this.#max) tables.sort((a, b) => b.events - a.events);
    for (const { name } of tables) this.shown(name);
  }

  /** The value of label `table`. */
  shown(table: string): string {
    this.#seen.add(table);
    if (!this.#named.has(table) && this.#named.size < this.#max) this.#named.add(table);
    return this.#named.has(table) ? table : OTHERS;
  }
}
