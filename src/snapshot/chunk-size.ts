import { ROW_GROUP } from '../event/copied-rows.ts';

/** The first chunk: how wide rows are is not known yet. */
const FIRST_ROWS = 500;
const GROWTH_MAX = 4;

/** How many rows the next chunk of a snapshot may have. */
export class ChunkSize {
  readonly #rowsMax: number;
  readonly #bytesMax: number;
  #rows: number;

  constructor(rowsMax: number, bytesMax: number) {
    this.#rowsMax = rowsMax;
    this.#bytesMax = bytesMax;
    this.#rows = Math.min(FIRST_ROWS, rowsMax);
  }

  /** After a chunk of `count` rows and `bytes`, where about so many rows are `left`. */
  learn(count: number, bytes: number, left: number): void {
    const rowBytes = Math.max(1, bytes / Math.max(1, count));
    this.#rows = Math.max(1, Math.min(this.#rowsMax, Math.ceil(this.#bytesMax / rowBytes), this.#rows * GROWTH_MAX));
    // A rest that is no row group goes along: DuckDB would write it to its log, and again with a checkpoint, which stops the stream.
    if (this.#rows >= ROW_GROUP && left > this.#rows && left < this.#rows + ROW_GROUP) this.#rows += ROW_GROUP;
  }

  get rows(): number {
    return this.#rows;
  }
}
