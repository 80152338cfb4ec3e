import { isUtf8 } from 'node:buffer';
import duckdb, { type DataChunk, type LogicalType } from '@duckdb/node-bindings';
import { ByteWriter } from '../../event/byte-writer.ts';
import { NULL, type Row, skipColumn, TEXT, UNCHANGED } from '../../event/row.ts';
import { type Cells, type Filler, ValueError } from './cells.ts';
import { fillerOf } from './fill.ts';
import { logicalType, type Target } from './mapping.ts';
import { longColumns, tooLong } from './row-check.ts';

/** A column to load from the rows of `part`: its value, or whether the WAL left it out. */
export interface LoadColumn {
  readonly part: number;
  /** Index in the row's tuple. */
  readonly column: number;
  /** Null = a BOOLEAN, true where the value is unchanged. */
  readonly target: Target | null;
}

/**
 * Rows to load. Every part has as many, and row i of the load is made of row i of each part. Only a load of several
 * parts may hold unchanged values: they load as NULL.
 */
export interface Load {
  readonly parts: readonly (readonly Row[])[];
  readonly columns: readonly LoadColumn[];
  /** One more column after the others, an INTEGER per row. */
  readonly counts?: Int32Array;
}

/** A value that cannot be loaded, and the column it is in. */
export class LoadError extends Error {
  readonly part: number;
  readonly column: number;
  readonly label: string | null;
  /** False where not even VARCHAR holds it. */
  readonly fitsText: boolean;

  constructor(part: number, column: number, cause: ValueError, fitsText: boolean) {
    super(cause.message, { cause });
    this.name = 'LoadError';
    this.part = part;
    this.column = column;
    this.label = cause.label;
    this.fitsText = fitsText;
  }
}

/** DuckDB's own vector size. */
const ROWS_MAX = duckdb.vector_size();
/** A chunk ends early past this, so that a few wide rows cannot make a heap of gigabytes. */
const HEAP_BYTES_MAX = 4 << 20;
/** Rows of one read buffer lie this close together; copying what is between them is cheaper than copying twice. */
const GAP_BYTES_MAX = 256;

interface Slot extends LoadColumn {
  readonly cells: Cells;
  readonly filler: Filler | null;
}

/** Writes a load into data chunks, one after another. */
export class ChunkWriter {
  readonly rows: number;
  readonly #load: Load;
  readonly #rowBytesMax: number;
  readonly #heap = new ByteWriter(1 << 16);
  readonly #slots: Slot[];
  /** Per part, per column of its tuple: the slot that wants its value, or null. */
  readonly #wanted: (Slot | null)[][];
  /** Where each row of the chunk begins on the heap. */
  readonly #starts = new Int32Array(ROWS_MAX);
  #next = 0;

  constructor(load: Load, rowBytesMax: number) {
    this.#load = load;
    this.#rowBytesMax = rowBytesMax;
    this.rows = load.parts[0]!.length;
    this.#slots = load.columns.map((column) => ({
      ...column,
      cells: { heap: this.#heap, starts: new Int32Array(ROWS_MAX), ends: new Int32Array(ROWS_MAX) },
      filler: column.target ? fillerOf(column.target) : null,
    }));
    this.#wanted = load.parts.map((rows, part) => {
      const wanted: (Slot | null)[] = new Array(rows[0]?.relation.columns.length ?? 0).fill(null);
      for (const slot of this.#slots) if (slot.part === part && slot.filler) wanted[slot.column] = slot;
      return wanted;
    });
  }

  /** What the table function returns; the last column carries the heap and is for no statement to read. */
  columns(): { readonly name: string; readonly type: LogicalType }[] {
    const { Type } = duckdb;
    const types = this.#slots.map(({ target }) =>
      target ? logicalType(target) : duckdb.create_logical_type(Type.BOOLEAN),
    );
    if (this.#load.counts) types.push(duckdb.create_logical_type(Type.INTEGER));
    const columns = types.map((type, index) => ({ name: `c${index}`, type }));
    return [...columns, { name: 'heap', type: duckdb.create_logical_type(Type.BLOB) }];
  }

  rewind(): void {
    this.#next = 0;
  }

  /** Fills the next chunk; an empty one after the last row. Throws a LoadError, then nothing of the chunk counts. */
  next(output: DataChunk): void {
    const from = this.#next;
    this.#heap.length = 0;
    let count = Math.min(ROWS_MAX, this.rows - from);
    for (let part = 0; part < this.#load.parts.length; part++) count = this.#gather(part, from, count, part === 0);
    duckdb.data_chunk_set_size(output, count);
    if (count === 0) return;
    this.#parse(count);
    const base = this.#copyHeap(output);
    this.#slots.forEach((slot, index) => {
      const vector = duckdb.data_chunk_get_vector(output, index);
      if (slot.filler) slot.filler.write(vector, base);
      else duckdb.copy_data_to_vector(vector, 0, this.#unchanged(slot, from, count).buffer as ArrayBuffer, 0, count);
    });
    const { counts } = this.#load;
    if (counts) {
      const vector = duckdb.data_chunk_get_vector(output, this.#slots.length);
      duckdb.copy_data_to_vector(vector, 0, counts.buffer as ArrayBuffer, from * 4, count * 4);
    }
    this.#next = from + count;
  }

  #parse(count: number): void {
    if (!isUtf8(this.#heap.bytes.subarray(0, this.#heap.length))) this.#checkEncoding(count);
    for (const slot of this.#slots) {
      if (!slot.filler) continue;
      try {
        slot.filler.parse(slot.cells, count);
      } catch (error) {
        throw error instanceof ValueError ? new LoadError(slot.part, slot.column, error, true) : error;
      }
    }
  }

  /** A database in SQL_ASCII can hold any bytes; DuckDB text is UTF-8. Columns that are not loaded do not matter. */
  #checkEncoding(count: number): void {
    for (const slot of this.#slots) {
      for (let i = 0; slot.filler && i < count; i++) {
        const { starts, ends } = slot.cells;
        if (starts[i] === -1 || isUtf8(this.#heap.bytes.subarray(starts[i], ends[i]))) continue;
        throw new LoadError(slot.part, slot.column, new ValueError(i, 'a value is not valid UTF-8'), false);
      }
    }
  }

  /** One native copy of the heap, held by the chunk itself; strings of the other columns point into it. */
  #copyHeap(output: DataChunk): bigint {
    const heap = this.#heap;
    // Up to 12 bytes would be kept inside the string itself, where there is nothing to point to.
    const length = Math.max(heap.length, 16);
    heap.reserve(16);
    const vector = duckdb.data_chunk_get_vector(output, this.#slots.length + (this.#load.counts ? 1 : 0));
    duckdb.vector_assign_string_element_len(vector, 0, heap.bytes.subarray(0, length));
    const data = duckdb.vector_get_data(vector, 16);
    const base = new DataView(data.buffer, data.byteOffset, 16).getBigUint64(8, true);
    // The other rows of this column: empty strings, whatever was there before.
    const rows = duckdb.data_chunk_get_size(output) - 1;
    if (rows > 0) duckdb.copy_data_to_vector(vector, 16, new ArrayBuffer(rows * 16), 0, rows * 16);
    return base;
  }

  /** Copies rows onto the heap and notes where the wanted columns are. Returns how many rows it took. */
  #gather(part: number, from: number, count: number, mayStop: boolean): number {
    const rows = this.#load.parts[part]!;
    const starts = this.#starts;
    let taken = 0;
    while (taken < count && !(mayStop && this.#heap.length > HEAP_BYTES_MAX)) {
      const { bytes, at } = rows[from + taken]!;
      const limit = this.#heap.length + HEAP_BYTES_MAX;
      const base = this.#heap.length - at;
      let end = at;
      for (; taken < count; taken++) {
        const row = rows[from + taken]!;
        if (row.bytes !== bytes || row.at < end || (end > at && row.at - end > GAP_BYTES_MAX)) break;
        if (mayStop && base + end > limit) break;
        starts[taken] = base + row.at;
        end = tupleEnd(bytes, row.at);
        if (end - row.at > this.#rowBytesMax) this.#refuseLength(part, row, taken);
      }
      this.#heap.reserve(end - at);
      bytes.copy(this.#heap.bytes, this.#heap.length, at, end);
      this.#heap.length += end - at;
    }
    this.#locate(part, taken);
    return taken;
  }

  #refuseLength(part: number, row: Row, index: number): never {
    const column = longColumns(row, this.#rowBytesMax)[0]!;
    const cause = new ValueError(index, tooLong(tupleEnd(row.bytes, row.at) - row.at, this.#rowBytesMax));
    throw new LoadError(part, column, cause, false);
  }

  /** Also blanks what is not text between the values, so that one check of the whole heap proves them to be UTF-8. */
  #locate(part: number, count: number): void {
    const b = this.#heap.bytes;
    const wanted = this.#wanted[part]!;
    const columns = wanted.length;
    const merges = this.#load.parts.length > 1;
    let previous = this.#starts[0] ?? 0;
    for (let i = 0; i < count; i++) {
      let at = this.#starts[i]!;
      while (previous < at) b[previous++] = 0;
      b[at] = b[at + 1] = 0;
      at += 2;
      for (let column = 0; column < columns; column++) {
        const slot = wanted[column];
        const kind = b[at];
        if (kind === NULL || kind === UNCHANGED) {
          if (slot) slot.cells.starts[i] = -1;
          if (slot && kind === UNCHANGED && !merges)
            throw new LoadError(part, column, new ValueError(i, 'a value is missing'), false);
          at++;
          continue;
        }
        const end = at + 5 + ((b[at + 1]! << 24) | (b[at + 2]! << 16) | (b[at + 3]! << 8) | b[at + 4]!);
        if (kind !== TEXT && slot)
          throw new LoadError(part, column, new ValueError(i, 'a value came in binary form'), false);
        b[at + 1] = b[at + 2] = b[at + 3] = b[at + 4] = 0;
        if (slot) {
          slot.cells.starts[i] = at + 5;
          slot.cells.ends[i] = end;
        }
        at = end;
      }
      previous = at;
    }
  }

  #unchanged(slot: Slot, from: number, count: number): Uint8Array {
    const flags = new Uint8Array(count);
    const rows = this.#load.parts[slot.part]!;
    for (let i = 0; i < count; i++) flags[i] = rows[from + i]!.isUnchanged(slot.column) ? 1 : 0;
    return flags;
  }
}

function tupleEnd(bytes: Buffer, start: number): number {
  const count = (bytes[start]! << 8) | bytes[start + 1]!;
  let at = start + 2;
  for (let i = 0; i < count; i++) at = skipColumn(bytes, at);
  return at;
}
