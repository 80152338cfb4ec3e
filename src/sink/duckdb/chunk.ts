import { isUtf8 } from 'node:buffer';
import duckdb, { type DataChunk, type LogicalType } from '@duckdb/node-bindings';
import { ByteWriter } from '../../event/byte-writer.ts';
import { CopiedRows } from '../../event/copied-rows.ts';
import type { Row } from '../../event/row.ts';
import { type Cells, type Filler, ValueError } from './cells.ts';
import { CopyPart } from './copy-part.ts';
import { fillerOf } from './fill.ts';
import { logicalType, type Target } from './mapping.ts';
import { type Part, PartError } from './part.ts';
import { TuplePart } from './tuple-part.ts';

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
  readonly parts: readonly (readonly Row[] | readonly CopiedRows[])[];
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

const EMPTY_STRINGS = new ArrayBuffer(ROWS_MAX * 16);

interface Slot extends LoadColumn {
  readonly cells: Cells;
  readonly filler: Filler | null;
}

/** Writes a load into data chunks, one after another. */
export class ChunkWriter {
  readonly rows: number;
  readonly #load: Load;
  readonly #heap = new ByteWriter(1 << 16);
  readonly #slots: Slot[];
  readonly #parts: Part[];
  /** Per part, per column of its tuple: where whoever wants its values is told, or null. */
  readonly #wanted: (Cells | null)[][];
  #next = 0;

  constructor(load: Load, rowBytesMax: number) {
    this.#load = load;
    this.#parts = load.parts.map((part) => partOf(part, rowBytesMax, load.parts.length > 1));
    this.rows = this.#parts[0]!.rows;
    this.#slots = load.columns.map((column) => ({
      ...column,
      cells: { heap: this.#heap, starts: new Int32Array(ROWS_MAX), ends: new Int32Array(ROWS_MAX) },
      filler: column.target ? fillerOf(column.target) : null,
    }));
    this.#wanted = this.#parts.map(({ columns }, part) => {
      const wanted: (Cells | null)[] = new Array(columns).fill(null);
      for (const slot of this.#slots) if (slot.part === part && slot.filler) wanted[slot.column] = slot.cells;
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
    for (const part of this.#parts) part.rewind();
  }

  /** Fills the next chunk; after the last row, an empty one, and returns false. Throws a LoadError, then nothing of the chunk counts. */
  next(output: DataChunk): boolean {
    const from = this.#next;
    this.#heap.length = 0;
    let count = Math.min(ROWS_MAX, this.rows - from);
    for (let part = 0; part < this.#parts.length; part++) count = this.#gather(part, count, part === 0);
    duckdb.data_chunk_set_size(output, count);
    if (count === 0) return false;
    this.#parse(count);
    const base = this.#copyHeap(output);
    this.#slots.forEach((slot, index) => {
      const vector = duckdb.data_chunk_get_vector(output, index);
      if (slot.filler) slot.filler.write(vector, base);
      else duckdb.copy_data_to_vector(vector, 0, this.#unchanged(slot, count).buffer as ArrayBuffer, 0, count);
    });
    const { counts } = this.#load;
    if (counts) {
      const vector = duckdb.data_chunk_get_vector(output, this.#slots.length);
      duckdb.copy_data_to_vector(vector, 0, counts.buffer as ArrayBuffer, from * 4, count * 4);
    }
    this.#next = from + count;
    return true;
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
    if (rows > 0) duckdb.copy_data_to_vector(vector, 16, EMPTY_STRINGS, 0, rows * 16);
    return base;
  }

  /** Puts rows of a part onto the heap and notes where the wanted columns are. Returns how many rows it took. */
  #gather(part: number, count: number, mayStop: boolean): number {
    const source = this.#parts[part]!;
    try {
      const taken = source.take(count, this.#heap, mayStop);
      source.locate(taken, this.#heap, this.#wanted[part]!);
      return taken;
    } catch (error) {
      if (!(error instanceof PartError)) throw error;
      throw new LoadError(part, error.column, new ValueError(error.row, error.message), false);
    }
  }

  #unchanged(slot: Slot, count: number): Uint8Array {
    const flags = new Uint8Array(count);
    const part = this.#parts[slot.part]!;
    for (let i = 0; i < count; i++) flags[i] = part.row(i).isUnchanged(slot.column) ? 1 : 0;
    return flags;
  }
}

function partOf(rows: readonly Row[] | readonly CopiedRows[], rowBytesMax: number, merges: boolean): Part {
  return rows[0] instanceof CopiedRows
    ? new CopyPart(rows as readonly CopiedRows[], rowBytesMax, ROWS_MAX)
    : new TuplePart(rows as readonly Row[], rowBytesMax, merges, ROWS_MAX);
}
