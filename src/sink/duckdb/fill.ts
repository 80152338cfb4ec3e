import duckdb, { type Vector } from '@duckdb/node-bindings';
import { splitArray } from './array.ts';
import { type Cells, type Filler, hexValue, refuse, ValueError } from './cells.ts';
import { fixedFiller, writeNulls } from './fixed.ts';
import type { Target } from './mapping.ts';

/*
 * From PostgreSQL's text, byte for byte in the heap, to the memory of DuckDB vectors: no JS string or object per
 * value on the usual path. Each filler first parses a whole column (which may put decoded bytes on the heap), then
 * writes it in one copy. Strings over 12 bytes are pointers into one native copy of the heap per chunk.
 */

/** One filler belongs to one column of one load; it keeps its arrays from chunk to chunk. */
export function fillerOf(target: Target): Filler {
  switch (target.kind) {
    case 'text':
    case 'json':
      return new StringFiller();
    case 'bytes':
      return new BytesFiller();
    case 'list':
      return new ListFiller(target.element!);
    default:
      return fixedFiller(target);
  }
}

/** `duckdb_string_t`: length, then 12 bytes of text, or 4 bytes of it and a pointer to the whole. */
function writeStrings(
  vector: Vector,
  cells: Cells,
  count: number,
  base: bigint,
  words: Uint32Array<ArrayBuffer>,
  text: Uint8Array,
): void {
  const { starts, ends } = cells;
  const b = cells.heap.bytes;
  const low = Number(base & 0xffffffffn);
  const high = Number(base >> 32n);
  for (let i = 0; i < count; i++) {
    const start = starts[i]!;
    const length = start === -1 ? 0 : ends[i]! - start;
    const word = i * 4;
    const at = word * 4;
    words[word] = length;
    words[word + 1] = 0;
    if (length <= 12) {
      words[word + 2] = 0;
      words[word + 3] = 0;
      for (let k = 0; k < length; k++) text[at + 4 + k] = b[start + k]!;
    } else {
      for (let k = 0; k < 4; k++) text[at + 4 + k] = b[start + k]!;
      const address = low + start;
      words[word + 2] = address >>> 0;
      words[word + 3] = high + (address > 0xffffffff ? 1 : 0);
    }
  }
  duckdb.copy_data_to_vector(vector, 0, words.buffer, 0, count * 16);
  writeNulls(vector, starts, count);
}

class StringFiller implements Filler {
  #cells: Cells | null = null;
  #count = 0;
  #words = new Uint32Array(0);
  #text = new Uint8Array(0);

  parse(cells: Cells, count: number): void {
    this.#cells = cells;
    this.#count = count;
    if (this.#words.length >= count * 4) return;
    this.#words = new Uint32Array(Math.max(count, 2048) * 4);
    this.#text = new Uint8Array(this.#words.buffer);
  }

  write(vector: Vector, base: bigint): void {
    writeStrings(vector, this.#cells!, this.#count, base, this.#words, this.#text);
  }
}

/** bytea: `\x` and two hex digits per byte, decoded onto the heap. */
class BytesFiller implements Filler {
  readonly #strings = new StringFiller();

  parse(cells: Cells, count: number): void {
    const decoded: Cells = { heap: cells.heap, starts: new Int32Array(count), ends: new Int32Array(count) };
    for (let i = 0; i < count; i++) {
      const start = cells.starts[i]!;
      decoded.starts[i] = start;
      if (start === -1) continue;
      const length = (cells.ends[i]! - start - 2) / 2;
      if (!(length >= 0) || !Number.isInteger(length)) refuse(cells, i, 'BLOB');
      const b = cells.heap.reserve(length);
      if (b[start] !== 0x5c || b[start + 1] !== 0x78) refuse(cells, i, 'BLOB');
      let at = cells.heap.length;
      decoded.starts[i] = at;
      for (let from = start + 2; from < cells.ends[i]!; from += 2) {
        const byte = (hexValue(b[from]!) << 4) | hexValue(b[from + 1]!);
        if (byte < 0) refuse(cells, i, 'BLOB');
        b[at++] = byte;
      }
      decoded.ends[i] = at;
      cells.heap.length = at;
    }
    this.#strings.parse(decoded, count);
  }

  write(vector: Vector, base: bigint): void {
    this.#strings.write(vector, base);
  }
}

class ListFiller implements Filler {
  readonly #filler: Filler;
  #cells: Cells | null = null;
  #count = 0;
  #total = 0;
  #entries = new BigUint64Array(0);

  constructor(element: Target) {
    this.#filler = fillerOf(element);
  }

  parse(cells: Cells, count: number): void {
    const split = splitArray(cells, count);
    this.#cells = cells;
    this.#count = count;
    this.#total = split.total;
    this.#entries = split.entries;
    try {
      this.#filler.parse(split.elements, split.total);
    } catch (error) {
      if (!(error instanceof ValueError)) throw error;
      const row = split.rowOf(error.row);
      if (error.label !== null) throw new ValueError(row, error.message, error.label);
      throw new ValueError(row, `in an array, ${error.message}`);
    }
  }

  write(vector: Vector, base: bigint): void {
    duckdb.list_vector_reserve(vector, this.#total);
    duckdb.list_vector_set_size(vector, this.#total);
    duckdb.copy_data_to_vector(vector, 0, this.#entries.buffer, 0, this.#count * 16);
    if (this.#total > 0) this.#filler.write(duckdb.list_vector_get_child(vector), base);
    writeNulls(vector, this.#cells!.starts, this.#count);
  }
}
