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
