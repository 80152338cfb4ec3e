import type { Config } from '../config/schema.ts';
import { ROW_GROUP } from '../event/copied-rows.ts';
import type { SnapshotRecord } from '../postgres/snapshots.ts';
import { chunkBytesOf } from './context.ts';

/** The first chunk: how wide rows are is not known yet. */
const FIRST_ROWS = 500;
const GROWTH_MAX = 4;
/** At a limited rate a chunk is what a second allows, or a row group where that many allow it. */
const GROUP_SECONDS = 5;

export interface ChunkBounds {
  readonly rowsMax: number;
  readonly bytesMax: number;
  readonly rowsPerSecondMax: number | null;
  /** Whole row groups are worth more than others: they are stored beside the stream. */
  readonly groups: boolean;
}

export function chunkBounds({ kind, chunkRows, rowsPerSecondMax }: SnapshotRecord, config: Config): ChunkBounds {
  const { snapshot, transport } = config;
  return {
    rowsMax: chunkRows ?? snapshot.chunkRows,
    bytesMax: chunkBytesOf(config),
    rowsPerSecondMax: rowsPerSecondMax ?? snapshot.rowsPerSecondMax ?? null,
    groups: kind === 'incremental' && transport.type === 'in-process',
  };
}

/** How many rows the next chunk of a snapshot may have. */
export class ChunkSize {
  readonly #rowsMax: number;
  readonly #bytesMax: number;
  readonly #groups: boolean;
  #rows: number;

  constructor({ rowsMax, bytesMax, rowsPerSecondMax, groups }: ChunkBounds) {
    const whole = groups && rowsMax >= ROW_GROUP;
    const many = rowsPerSecondMax === null || (whole && rowsPerSecondMax * GROUP_SECONDS >= rowsMax);
    this.#rowsMax = many ? rowsMax : Math.min(rowsMax, rowsPerSecondMax);
    this.#bytesMax = bytesMax;
    this.#groups = groups;
    this.#rows = Math.min(FIRST_ROWS, this.#rowsMax);
  }

  /** After a chunk of `count` rows and `bytes`, where about so many rows are `left`. */
  learn(count: number, bytes: number, left: number): void {
    const rowBytes = Math.max(1, bytes / Math.max(1, count));
    this.#rows = Math.max(1, Math.min(this.#rowsMax, Math.ceil(this.#bytesMax / rowBytes), this.#rows * GROWTH_MAX));
    // A rest that is no row group goes along: DuckDB would write it to its log, and again with a checkpoint, which stops the stream.
    if (this.#groups && this.#rows >= ROW_GROUP && left > this.#rows && left < this.#rows + ROW_GROUP)
      this.#rows += ROW_GROUP;
  }

  get rows(): number {
    return this.#rows;
  }
}
