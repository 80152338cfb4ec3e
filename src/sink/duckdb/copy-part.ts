import type { ByteWriter } from '../../event/byte-writer.ts';
import type { CopiedRows } from '../../event/copied-rows.ts';
import { BACKSLASH, isNullAt, TAB, UNESCAPED, valueEnd, wordsOf } from '../../event/copy-text.ts';
import type { Row } from '../../event/row.ts';
import type { Cells } from './cells.ts';
import { HEAP_BYTES_MAX, type Part, PartError } from './part.ts';
import { longColumns, tooLong } from './row-check.ts';

/** Rows as COPY sent them: their text is unescaped where it lies on the heap, with no tuple and no object in between. */
export class CopyPart implements Part {
  readonly #blocks: readonly CopiedRows[];
  readonly #rowBytesMax: number;
  readonly #starts: Int32Array;
  readonly #ends: Int32Array;
  readonly rows: number;
  readonly columns: number;
  /** Where the rows taken last begin, and the next ones: index of the block, and of the row in it. */
  #first: readonly [block: number, row: number] = [0, 0];
  #next: readonly [block: number, row: number] = [0, 0];

  constructor(blocks: readonly CopiedRows[], rowBytesMax: number, atOnceMax: number) {
    this.#blocks = blocks;
    this.#rowBytesMax = rowBytesMax;
    this.#starts = new Int32Array(atOnceMax);
    this.#ends = new Int32Array(atOnceMax);
    this.rows = blocks.reduce((sum, { count }) => sum + count, 0);
    this.columns = blocks[0]!.relation.columns.length;
  }

  rewind(): void {
    this.#next = [0, 0];
  }

  row(index: number): Row {
    let [block, row] = this.#first;
    for (row += index; row >= this.#blocks[block]!.count; block++) row -= this.#blocks[block]!.count;
    return this.#blocks[block]!.rows(row, row + 1)[0]!;
  }

  take(count: number, heap: ByteWriter, mayStop: boolean): number {
    let [block, row] = this.#next;
    this.#first = this.#next;
    let taken = 0;
    while (taken < count && !(mayStop && heap.length > HEAP_BYTES_MAX)) {
      const { bytes, starts, ends } = this.#blocks[block]!;
      const from = starts[row]!;
      const base = heap.length - from;
      let end = from;
      for (; row < starts.length && taken < count && !(mayStop && end - from > HEAP_BYTES_MAX); row++) {
        const start = starts[row]!;
        end = ends[row]!;
        this.#starts[taken] = base + start;
        this.#ends[taken] = base + end;
        if (end - start > this.#rowBytesMax) this.#refuse(taken, end - start);
        taken++;
      }
      heap.reserve(end - from);
      bytes.copy(heap.bytes, heap.length, from, end);
      heap.length += end - from;
      if (row === starts.length) [block, row] = [block + 1, 0];
    }
    this.#next = [block, row];
    return taken;
  }

  /** The text of a row may be longer than its tuple, never the other way round: only what is too long in both is refused. */
  #refuse(index: number, bytes: number): void {
    const [long] = longColumns(this.row(index), this.#rowBytesMax);
    if (long !== undefined) throw new PartError(index, long, tooLong(bytes, this.#rowBytesMax));
  }

  locate(count: number, heap: ByteWriter, wanted: readonly (Cells | null)[]): void {
    const b = heap.bytes;
    const words = wordsOf(b);
    const columns = wanted.length;
    // Nobody looks at what comes after: a statement that deletes wants the key alone.
    const last = wanted.findLastIndex((cells) => cells !== null);
    let previous = this.#starts[0] ?? 0;
    for (let i = 0; i < count; i++) {
      let at = this.#starts[i]!;
      while (previous < at) b[previous++] = 0;
      // The newline that ends it.
      const stop = this.#ends[i]! - 1;
      for (let column = 0; column <= last; column++) {
        const cells = wanted[column];
        if (isNullAt(b, at)) {
          if (cells) cells.starts[i] = -1;
          at += 2;
        } else {
          const start = at;
          at = valueEnd(b, words, at, stop);
          let end = at;
          if (at < stop && b[at] === BACKSLASH) {
            for (; at < stop && b[at] !== TAB; at++) {
              b[end++] = b[at] === BACKSLASH ? UNESCAPED[b[++at]!]! : b[at]!;
            }
            for (let blank = end; blank < at; blank++) b[blank] = 0;
          }
          if (cells) {
            cells.starts[i] = start;
            cells.ends[i] = end;
          }
        }
        if (column + 1 < columns && b[at++] !== TAB) throw wrongColumns(columns);
      }
      if (last + 1 === columns && at !== stop) throw wrongColumns(columns);
      previous = this.#ends[i]!;
    }
  }
}

const wrongColumns = (columns: number): RangeError => new RangeError(`a copied row does not have ${columns} columns`);
