import type { ByteWriter } from '../../event/byte-writer.ts';
import { NULL, type Row, TEXT, tupleEnd, UNCHANGED } from '../../event/row.ts';
import type { Cells } from './cells.ts';
import { HEAP_BYTES_MAX, type Part, PartError } from './part.ts';
import { longColumns, tooLong } from './row-check.ts';

/** Rows of one read buffer lie this close together; copying what is between them is cheaper than copying twice. */
const GAP_BYTES_MAX = 256;

/** Rows as TupleData. */
export class TuplePart implements Part {
  readonly #all: readonly Row[];
  readonly #rowBytesMax: number;
  /** True where unchanged values may be among them: they load as NULL. */
  readonly #merges: boolean;
  readonly #starts: Int32Array;
  /** The first row taken last, and the one after the last. */
  #first = 0;
  #next = 0;

  constructor(rows: readonly Row[], rowBytesMax: number, merges: boolean, atOnceMax: number) {
    this.#all = rows;
    this.#rowBytesMax = rowBytesMax;
    this.#merges = merges;
    this.#starts = new Int32Array(atOnceMax);
  }

  get rows(): number {
    return this.#all.length;
  }

  get columns(): number {
    return this.#all[0]?.relation.columns.length ?? 0;
  }

  rewind(): void {
    this.#next = 0;
  }

  row(index: number): Row {
    return this.#all[this.#first + index]!;
  }

  take(count: number, heap: ByteWriter, mayStop: boolean): number {
    const rows = this.#all;
    const from = this.#next;
    this.#first = from;
    let taken = 0;
    while (taken < count && !(mayStop && heap.length > HEAP_BYTES_MAX)) {
      const { bytes, at } = rows[from + taken]!;
      const limit = heap.length + HEAP_BYTES_MAX;
      const base = heap.length - at;
      let end = at;
      for (; taken < count; taken++) {
        const row = rows[from + taken]!;
        if (row.bytes !== bytes || row.at < end || (end > at && row.at - end > GAP_BYTES_MAX)) break;
        if (mayStop && base + end > limit) break;
        this.#starts[taken] = base + row.at;
        end = tupleEnd(row);
        if (end - row.at > this.#rowBytesMax)
          throw new PartError(taken, longColumns(row, this.#rowBytesMax)[0]!, tooLong(end - row.at, this.#rowBytesMax));
      }
      heap.reserve(end - at);
      bytes.copy(heap.bytes, heap.length, at, end);
      heap.length += end - at;
    }
    this.#next = from + taken;
    return taken;
  }

  locate(count: number, heap: ByteWriter, wanted: readonly (Cells | null)[]): void {
    const b = heap.bytes;
    const columns = wanted.length;
    let previous = this.#starts[0] ?? 0;
    for (let i = 0; i < count; i++) {
      let at = this.#starts[i]!;
      while (previous < at) b[previous++] = 0;
      b[at] = b[at + 1] = 0;
      at += 2;
      for (let column = 0; column < columns; column++) {
        const cells = wanted[column];
        const kind = b[at];
        if (kind === NULL || kind === UNCHANGED) {
          if (cells) cells.starts[i] = -1;
          if (cells && kind === UNCHANGED && !this.#merges) throw new PartError(i, column, 'a value is missing');
          at++;
          continue;
        }
        const end = at + 5 + ((b[at + 1]! << 24) | (b[at + 2]! << 16) | (b[at + 3]! << 8) | b[at + 4]!);
        if (kind !== TEXT && cells) throw new PartError(i, column, 'a value came in binary form');
        b[at + 1] = b[at + 2] = b[at + 3] = b[at + 4] = 0;
        if (cells) {
          cells.starts[i] = at + 5;
          cells.ends[i] = end;
        }
        at = end;
      }
      previous = at;
    }
  }
}
