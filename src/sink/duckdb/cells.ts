import type { Vector } from '@duckdb/node-bindings';
import type { ByteWriter } from '../../event/byte-writer.ts';

/** Where the values of one column are: row i is `heap.bytes[starts[i] .. ends[i])`, or NULL where `starts[i]` is -1. */
export interface Cells {
  readonly heap: ByteWriter;
  starts: Int32Array;
  ends: Int32Array;
}

/** A value that the target type cannot hold exactly. `row` counts within the cells given. */
export class ValueError extends Error {
  readonly row: number;
  /** The label that an enum lacks; null where anything else is wrong. */
  readonly label: string | null;

  constructor(row: number, message: string, label: string | null = null) {
    super(message);
    this.name = 'ValueError';
    this.row = row;
    this.label = label;
  }
}

/** The text of a value, for messages: never more than 100 characters of it. */
export function excerpt(cells: Cells, row: number): string {
  const start = cells.starts[row]!;
  const end = cells.ends[row]!;
  const text = cells.heap.bytes.toString('utf8', start, Math.min(end, start + 400));
  return end - start > 100 ? `${text.slice(0, 80)}… (${end - start} bytes)` : text;
}

/** Throws the ValueError for a value that `type` cannot hold. */
export function refuse(cells: Cells, row: number, type: string, why = ''): never {
  throw new ValueError(row, `the value ${excerpt(cells, row)} does not fit ${type} exactly${why && `: ${why}`}`);
}

export interface Filler {
  /** Parses `count` cells; throws a ValueError at the first that does not fit exactly. May append to the heap. */
  parse(cells: Cells, count: number): void;
  /** Writes what was parsed. `base` is the address of the heap's native copy. */
  write(vector: Vector, base: bigint): void;
}

/** 0 to 15, or -1 for what is no hex digit. */
export const hexValue = (byte: number): number => {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const letter = byte | 0x20;
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : -1;
};
