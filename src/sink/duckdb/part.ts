import type { ByteWriter } from '../../event/byte-writer.ts';
import type { Row } from '../../event/row.ts';
import type { Cells } from './cells.ts';

/** A chunk ends early past this, so that a few wide rows cannot make a heap of gigabytes. */
export const HEAP_BYTES_MAX = 4 << 20;

/** Rows to load, in whatever form they came: puts them onto a heap, and says where on it each value is. */
export interface Part {
  readonly rows: number;
  /** Columns in a row's tuple. */
  readonly columns: number;
  /** From the first row again. */
  rewind(): void;
  /** Copies up to `count` rows onto the heap, fewer where `mayStop` and it is full. Throws a PartError. */
  take(count: number, heap: ByteWriter, mayStop: boolean): number;
  /**
   * Tells where the wanted values of the `count` rows taken last are. Also blanks what is not text between the values, so
   * that one check of the whole heap proves them to be UTF-8. Throws a PartError.
   */
  locate(count: number, heap: ByteWriter, wanted: readonly (Cells | null)[]): void;
  /** Row `index` of those taken last. */
  row(index: number): Row;
}

/** The row, of those taken last, and column that cannot be loaded. */
export class PartError extends Error {
  readonly row: number;
  readonly column: number;

  constructor(row: number, column: number, message: string) {
    super(message);
    this.name = 'PartError';
    this.row = row;
    this.column = column;
  }
}
