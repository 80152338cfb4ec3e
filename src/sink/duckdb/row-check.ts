import { isUtf8 } from 'node:buffer';
import { ByteWriter } from '../../event/byte-writer.ts';
import { NULL, Row, skipColumn, TEXT } from '../../event/row.ts';
import { type Cells, type Filler, ValueError } from './cells.ts';
import { fillerOf } from './fill.ts';
import type { Target } from './mapping.ts';

/** A column whose value does not fit its target, and why. */
export interface Misfit {
  readonly column: number;
  readonly reason: string;
  /** False where not even VARCHAR holds it. */
  readonly fitsText: boolean;
}

/** Why a row is too long to be stored. */
export const tooLong = (bytes: number, max: number): string =>
  `the row has ${bytes} bytes, more than rowBytesMax (${max})`;

/** The columns, longest first, without which the row is not too long; empty where it is not. */
export function longColumns(row: Row, max: number): number[] {
  const starts = row.starts();
  const length = (column: number): number => starts[column + 1]! - starts[column]!;
  let rest = starts[starts.length - 1]! - row.at;
  const found: number[] = [];
  const columns = rest <= max ? [] : Array.from({ length: starts.length - 1 }, (_, column) => column);
  for (const column of columns.sort((a, b) => length(b) - length(a))) {
    if (rest <= max) break;
    rest -= length(column);
    found.push(column);
  }
  return found;
}

interface Column {
  readonly filler: Filler;
  readonly cells: Cells;
}

/** Looks at rows one by one, where loading them together has met a value that does not fit. */
export class RowCheck {
  readonly #heap = new ByteWriter(1 << 12);
  readonly #columns: readonly (Column | null)[];
  readonly #rowBytesMax: number;

  /** `targets` by column of the rows; null for those that are not loaded. */
  constructor(targets: readonly (Target | null)[], rowBytesMax: number) {
    this.#rowBytesMax = rowBytesMax;
    this.#columns = targets.map((target) => {
      if (!target) return null;
      const cells: Cells = { heap: this.#heap, starts: new Int32Array(1), ends: new Int32Array(1) };
      return { filler: fillerOf(target), cells };
    });
  }

  /** Unknown labels of an ENUM are no misfits: the ENUM takes them. */
  misfits(row: Row): Misfit[] {
    const { bytes } = row;
    const starts = row.starts();
    const long = longColumns(row, this.#rowBytesMax);
    const reason = tooLong(starts[starts.length - 1]! - row.at, this.#rowBytesMax);
    const found = long.map((column): Misfit => ({ column, reason, fitsText: false }));
    this.#columns.forEach((column, index) => {
      const start = starts[index]!;
      if (!column || bytes[start] !== TEXT || long.includes(index)) return;
      const value = bytes.subarray(start + 5, starts[index + 1]!);
      const isText = isUtf8(value);
      const reason = isText ? this.#refusal(column, value) : 'the value is not valid UTF-8';
      if (reason !== null) found.push({ column: index, reason, fitsText: isText });
    });
    return found;
  }

  #refusal({ filler, cells }: Column, value: Uint8Array): string | null {
    this.#heap.length = 0;
    this.#heap.push(value);
    cells.starts[0] = 0;
    cells.ends[0] = value.length;
    try {
      filler.parse(cells, 1);
      return null;
    } catch (error) {
      if (!(error instanceof ValueError)) throw error;
      return error.label === null ? error.message : null;
    }
  }
}

/** The row with NULL in these columns. */
export function withNulls(row: Row, columns: readonly number[]): Row {
  const { bytes } = row;
  const parts: Uint8Array[] = [bytes.subarray(row.at, row.at + 2)];
  for (let column = 0, at = row.at + 2; column < row.relation.columns.length; column++) {
    const end = skipColumn(bytes, at);
    parts.push(columns.includes(column) ? Uint8Array.of(NULL) : bytes.subarray(at, end));
    at = end;
  }
  return new Row(row.relation, Buffer.concat(parts), 0);
}
