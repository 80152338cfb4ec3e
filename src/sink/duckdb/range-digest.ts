import { createHash, type Hash } from 'node:crypto';
import duckdb, { type Connection, type DataChunk } from '@duckdb/node-bindings';
import { SHORT_BYTES } from '../../validation/row-text.ts';
import type { Digest, KeyRange } from '../../validation/validation.ts';
import { cutsOf, EMPTY, partSql, type ReadColumns, whereSql } from './digest-sql.ts';
import { partTexts } from './packing-text.ts';
import { Rising } from './rising.ts';

/*
 * Digests of ranges, as row-text.ts defines them. DuckDB prints what is text; values of fixed size are hashed straight
 * from its vectors, which costs a fraction of printing them. The caller's transaction makes both queries one picture of
 * the table. Sorting is a third of the work, and most tables lie in the order of their key: that is looked at, and only
 * what does not is sorted.
 */

interface Range {
  rows: number;
  /** One for each column. */
  readonly columns: Hash[];
}

/** Null where rows are not `sorted` and came in another order than the key's. */
export async function rangeDigests(
  connection: Connection,
  columns: ReadColumns,
  ranges: readonly KeyRange[],
  sorted: boolean,
): Promise<Digest[] | null> {
  const { cuts, parts } = cutsOf(ranges);
  const found = new Map<number, Range>();
  const rows = `FROM ${columns.from} WHERE ${whereSql(columns, ranges)}`;
  const part = `CAST(${partSql(columns.key, cuts, 0)} AS INTEGER) AS part`;
  const pieces = { rows, part, order: sorted ? null : orderOf(columns) };
  if (!sorted && pieces.order === null) return null;
  if (!(await hashFixed(connection, columns, pieces, found))) return null;
  // Where a range lies in two row groups, DuckDB's threads may put the second one's texts first.
  if (!(await hashTexts(connection, columns, pieces, found)))
    await hashTexts(connection, columns, { ...pieces, order: null }, found);
  return parts.map((number) => {
    const range = found.get(number);
    if (!range) return EMPTY;
    const whole = createHash('sha256');
    for (const column of range.columns) whole.update(column.digest());
    return { rows: range.rows, hash: whole.digest('hex') };
  });
}

/** A key whose order can be looked at, and what it is packed by. */
interface Order {
  readonly sql: string;
  readonly bytes: number;
}

interface Pieces {
  readonly part: string;
  readonly rows: string;
  /** Null for DuckDB to sort. */
  readonly order: Order | null;
}

function orderOf({ key }: ReadColumns): Order | null {
  const [only] = key;
  return key.length === 1 && only?.packing?.signed ? { sql: only.sql, bytes: only.packing.bytes } : null;
}

/** Counts rows, too. False as soon as a row is out of order. */
async function hashFixed(
  connection: Connection,
  { all, key }: ReadColumns,
  { part, rows, order }: Pieces,
  found: Map<number, Range>,
): Promise<boolean> {
  const fixed = all.flatMap(({ sql, packing }, column) => (packing ? [{ sql, packing, column }] : []));
  const sort = order ? '' : ` ORDER BY ${key.map(({ sql }) => sql).join(', ')}`;
  const values = [...fixed.map(({ sql }, i) => `${sql} AS v${i}`), ...(order ? [`${order.sql} AS waltide_key`] : [])];
  const rising = order && new Rising(order.bytes);
  return eachChunk(connection, `SELECT ${[part, ...values].join(', ')} ${rows}${sort}`, (chunk, count) => {
    if (rising && order) {
      const keys = vectorOf(chunk, fixed.length + 1, count, order.bytes);
      if (!rising.goOn(keys.data, keys.valid, 0, count)) return false;
    }
    const vectors = fixed.map(({ packing }, i) => vectorOf(chunk, i + 1, count, packing.bytes));
    for (const { number, from, to } of runs(partsOf(chunk, count))) {
      const range = found.get(number) ?? { rows: 0, columns: all.map(() => createHash('sha256')) };
      found.set(number, range);
      range.rows += to - from;
      for (const [i, { packing, column }] of fixed.entries())
        range.columns[column]!.update(packing.pack(vectors[i]!.data, vectors[i]!.valid, from, to));
    }
    return true;
  });
}

async function hashTexts(
  connection: Connection,
  { all, key, fields }: ReadColumns,
  { part, rows, order }: Pieces,
  found: Map<number, Range>,
): Promise<boolean> {
  const texts = all.flatMap(({ packing }, column) => (packing ? [] : [column]));
  if (texts.length === 0) return true;
  for (const { columns } of found.values()) for (const column of texts) columns[column] = createHash('sha256');
  const keys = key.map((_, i) => `k${i}`).join(', ');
  const inner = [part, ...key.map(({ sql }, i) => `${sql} AS k${i}`)];
  const short = (text: string): string =>
    `CASE WHEN strlen(${text}) <= ${SHORT_BYTES} THEN ${text} ELSE sha256(${text}) END`;
  const sort = order ? '' : ` ORDER BY ${keys}`;
  // Both aggregates take the rows in the same order.
  const seen = order ? ', list(k0)' : '';
  const sql = `SELECT part, string_agg(concat(${texts.map((_, i) => `strlen(s${i}), ':', s${i}`).join(', ')}), ''${sort})${seen} FROM (
      SELECT part, ${keys}, ${texts.map((_, i) => `${short(`t${i}`)} AS s${i}`).join(', ')} FROM (
        SELECT ${[...inner, ...texts.map((column, i) => `${fields[column]!.text} AS t${i}`)].join(', ')} ${rows})) GROUP BY part`;
  return eachChunk(connection, sql, (chunk, count) => {
    if (order && !listsRise(chunk, 2, count, order.bytes)) return false;
    const numbers = partsOf(chunk, count);
    for (let row = 0; row < count; row++) {
      const range = found.get(numbers[row]!)!;
      const packed = partTexts(textAt(chunk, 1, row), texts.length, range.rows);
      for (const [i, column] of texts.entries()) range.columns[column]!.update(packed[i]!);
    }
    return true;
  });
}

/** `read` must have done with the chunk's memory when it returns; false ends it, and is passed on. */
async function eachChunk(
  connection: Connection,
  sql: string,
  read: (chunk: DataChunk, count: number) => boolean,
): Promise<boolean> {
  const result = await duckdb.query(connection, sql);
  for (let chunk = await duckdb.fetch_chunk(result); chunk; chunk = await duckdb.fetch_chunk(result)) {
    const count = duckdb.data_chunk_get_size(chunk);
    if (count === 0) break;
    if (!read(chunk, count)) return false;
  }
  return true;
}

/** Whether each list of the column rises. */
function listsRise(chunk: DataChunk, column: number, count: number, bytes: number): boolean {
  const vector = duckdb.data_chunk_get_vector(chunk, column);
  const entries = duckdb.vector_get_data(vector, count * 16);
  const bounds = new DataView(entries.buffer, entries.byteOffset, count * 16);
  const child = duckdb.list_vector_get_child(vector);
  const size = duckdb.list_vector_get_size(vector);
  const data = duckdb.vector_get_data(child, size * bytes);
  const valid: Uint8Array | null = duckdb.vector_get_validity(child, Math.ceil(size / 64) * 8);
  for (let row = 0; row < count; row++) {
    const from = Number(bounds.getBigUint64(row * 16, true));
    const to = from + Number(bounds.getBigUint64(row * 16 + 8, true));
    if (!new Rising(bytes).goOn(data, valid, from, to)) return false;
  }
  return true;
}

function vectorOf(
  chunk: DataChunk,
  column: number,
  count: number,
  bytes: number,
): { readonly data: Uint8Array; readonly valid: Uint8Array | null } {
  const vector = duckdb.data_chunk_get_vector(chunk, column);
  const data = duckdb.vector_get_data(vector, count * bytes);
  // Typed as if it were always there.
  const valid: Uint8Array | null = duckdb.vector_get_validity(vector, Math.ceil(count / 64) * 8);
  return { data, valid };
}

function partsOf(chunk: DataChunk, count: number): Int32Array {
  const { data } = vectorOf(chunk, 0, count, 4);
  return new Int32Array(data.buffer, data.byteOffset, count);
}

function textAt(chunk: DataChunk, column: number, row: number): Uint8Array {
  const { data } = vectorOf(chunk, column, row + 1, 16);
  const at = row * 16;
  const length = new DataView(data.buffer, data.byteOffset).getUint32(at, true);
  if (length <= 12) return data.subarray(at + 4, at + 4 + length);
  return duckdb.get_data_from_pointer(data.buffer as ArrayBuffer, data.byteOffset + at + 8, length);
}

/** Rows that follow one another in the same range. */
function runs(parts: Int32Array): { number: number; from: number; to: number }[] {
  const found: { number: number; from: number; to: number }[] = [];
  let from = 0;
  for (let i = 1; i <= parts.length; i++) {
    if (i < parts.length && parts[i] === parts[from]) continue;
    found.push({ number: parts[from]!, from, to: i });
    from = i;
  }
  return found;
}
