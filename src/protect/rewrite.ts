import type { ByteWriter } from '../event/byte-writer.ts';
import { CopiedRows } from '../event/copied-rows.ts';
import { BACKSLASH, isNullAt, TAB, UNESCAPED } from '../event/copy-text.ts';
import type { Relation } from '../event/relation.ts';
import { NULL, Row, TEXT, UNCHANGED } from '../event/row.ts';
import type { Mask } from './mask.ts';

/*
 * Rows as the source sent them, to rows as they leave it: bytes to bytes, for both forms that rows have (TupleData and
 * COPY's text), so that what is not masked is copied and never decoded.
 */

/** One column of what leaves: where it comes from, and what takes the place of its values; null for themselves. */
export interface ColumnPlan {
  readonly from: number;
  readonly mask: Mask | null;
}

const NEWLINE = 0x0a;

/** The row as `columns` have it, its bytes at the end of `out`. What the WAL does not carry stays so. */
export function rewriteRow(row: Row, columns: readonly ColumnPlan[], relation: Relation, out: ByteWriter): Row {
  const { bytes } = row;
  const starts = row.starts();
  const at = out.length;
  const head = out.reserve(2);
  head[at] = columns.length >> 8;
  head[at + 1] = columns.length & 255;
  out.length = at + 2;
  for (const { from, mask } of columns) {
    const start = starts[from]!;
    const kind = bytes[start];
    if (mask === null || kind === NULL || kind === UNCHANGED) out.push(bytes.subarray(start, starts[from + 1]!));
    else writeText(mask(bytes.subarray(start + 5, starts[from + 1]!)), out);
  }
  // Where `out` grows later, this row keeps the bytes of before.
  return new Row(relation, out.bytes, at);
}

function writeText(text: Uint8Array, out: ByteWriter): void {
  const buffer = out.reserve(5 + text.length);
  buffer[out.length] = TEXT;
  buffer.writeUInt32BE(text.length, out.length + 1);
  buffer.set(text, out.length + 5);
  out.length += 5 + text.length;
}

/** The rows at `indexes`, or all where null, as `columns` have them: still as COPY would send them. */
export function rewriteCopied(
  rows: CopiedRows,
  indexes: readonly number[] | null,
  columns: readonly ColumnPlan[],
  relation: Relation,
  out: ByteWriter,
): CopiedRows {
  const count = indexes?.length ?? rows.count;
  const starts = new Int32Array(count);
  const ends = new Int32Array(count);
  const fields: number[] = [];
  for (let i = 0; i < count; i++) {
    const index = indexes ? indexes[i]! : i;
    findFields(rows, index, fields);
    starts[i] = out.length;
    for (const [n, column] of columns.entries()) {
      if (n > 0) pushByte(TAB, out);
      writeField(rows.bytes, fields[column.from]!, fields[column.from + 1]! - 1, column.mask, out);
    }
    pushByte(NEWLINE, out);
    ends[i] = out.length;
  }
  return new CopiedRows(relation, out.bytes, starts, ends);
}

/** Where each column of row `index` begins, and one more for the end of the row: a column ends one before the next begins. */
function findFields({ bytes, starts, ends, relation }: CopiedRows, index: number, fields: number[]): void {
  const end = ends[index]!;
  const stop = bytes[end - 1] === NEWLINE ? end - 1 : end;
  fields.length = 0;
  fields.push(starts[index]!);
  // A tab inside a value is escaped, so every tab parts two columns.
  for (let at = starts[index]!; at < stop; at++) if (bytes[at] === TAB) fields.push(at + 1);
  fields.push(stop + 1);
  if (fields.length !== relation.columns.length + 1)
    throw new RangeError(`a copied row has ${fields.length - 1} columns, not ${relation.columns.length}`);
}

function writeField(bytes: Buffer, at: number, end: number, mask: Mask | null, out: ByteWriter): void {
  if (mask === null || isNullAt(bytes, at)) out.push(bytes.subarray(at, end));
  else out.push(escaped(mask(unescaped(bytes.subarray(at, end)))));
}

function unescaped(field: Uint8Array): Uint8Array {
  if (!field.includes(BACKSLASH)) return field;
  const text = new Uint8Array(field.length);
  let length = 0;
  for (let i = 0; i < field.length; i++) text[length++] = field[i] === BACKSLASH ? UNESCAPED[field[++i]!]! : field[i]!;
  return text.subarray(0, length);
}

const ESCAPED = new Map([
  [8, 0x62],
  [9, 0x74],
  [10, 0x6e],
  [11, 0x76],
  [12, 0x66],
  [13, 0x72],
  [BACKSLASH, BACKSLASH],
]);

function escaped(text: Uint8Array): Uint8Array {
  if (!text.some((byte) => ESCAPED.has(byte))) return text;
  return Uint8Array.from([...text].flatMap((byte) => (ESCAPED.has(byte) ? [BACKSLASH, ESCAPED.get(byte)!] : [byte])));
}

function pushByte(byte: number, out: ByteWriter): void {
  out.reserve(1)[out.length] = byte;
  out.length++;
}
