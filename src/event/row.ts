import type { Relation } from './relation.ts';

/**
 * TupleData, as in the PostgreSQL manual, "Logical Replication Message Formats":
 *   Int16 number of columns, then for each
 *   Byte1('n') NULL | Byte1('u') unchanged TOAST value | Byte1('t') text | Byte1('b') binary,
 *   and for 't' and 'b': Int32 length, Byte(n) value.
 * Rows from COPY and from Kafka are put into the same form, so that one decoder serves every road.
 */
export const NULL = 0x6e;
export const UNCHANGED = 0x75;
export const TEXT = 0x74;

/**
 * One row: bytes and where its tuple begins. Values are decoded when asked for, never before.
 * A row keeps `bytes` alive; do not hold rows longer than their batch.
 */
export class Row {
  readonly relation: Relation;
  readonly bytes: Buffer;
  /** Offset of the tuple's Int16 column count. */
  readonly at: number;
  #starts: Int32Array | null = null;

  constructor(relation: Relation, bytes: Buffer, at: number) {
    this.relation = relation;
    this.bytes = bytes;
    this.at = at;
  }

  /** Offset of each column's kind byte, with one more for the end of the tuple. */
  starts(): Int32Array {
    if (this.#starts) return this.#starts;
    const { bytes } = this;
    const count = (bytes[this.at]! << 8) | bytes[this.at + 1]!;
    const starts = new Int32Array(count + 1);
    let at = this.at + 2;
    for (let i = 0; i < count; i++) {
      starts[i] = at;
      at = skipColumn(bytes, at);
    }
    starts[count] = at;
    this.#starts = starts;
    return starts;
  }

  isNull(column: number): boolean {
    return this.bytes[this.starts()[column]!] === NULL;
  }

  /** True where an UPDATE did not touch a TOASTed value, so the WAL does not carry it. */
  isUnchanged(column: number): boolean {
    return this.bytes[this.starts()[column]!] === UNCHANGED;
  }

  /** The value in PostgreSQL's text form; null for NULL, undefined for an unchanged TOAST value. */
  text(column: number): string | null | undefined {
    const at = this.starts()[column]!;
    const kind = this.bytes[at];
    if (kind === NULL) return null;
    if (kind === UNCHANGED) return undefined;
    return this.bytes.toString('utf8', at + 5, this.starts()[column + 1]!);
  }
}

/** `row` with the values that it says are unchanged taken from `old`, which has all of them: REPLICA IDENTITY FULL. */
export function completeRow(row: Row, old: Row): Row {
  const starts = row.starts();
  const oldStarts = old.starts();
  const parts: Uint8Array[] = [row.bytes.subarray(row.at, row.at + 2)];
  for (let i = 0; i + 1 < starts.length; i++) {
    const [from, at] = row.isUnchanged(i) ? [old.bytes, oldStarts] : [row.bytes, starts];
    parts.push(from.subarray(at[i]!, at[i + 1]!));
  }
  return new Row(row.relation, Buffer.concat(parts), 0);
}

/** Where the column after the one at `at` begins. */
export function skipColumn(bytes: Buffer, at: number): number {
  const kind = bytes[at];
  return kind === NULL || kind === UNCHANGED ? at + 1 : at + 5 + bytes.readInt32BE(at + 1);
}

/** Offset of the first byte after the row's tuple. */
export function tupleEnd(row: Row): number {
  const { bytes } = row;
  const count = (bytes[row.at]! << 8) | bytes[row.at + 1]!;
  let at = row.at + 2;
  for (let i = 0; i < count; i++) at = skipColumn(bytes, at);
  return at;
}

/** True where the WAL does not carry all of the row's values. */
export function hasUnchanged(row: Row): boolean {
  const { bytes } = row;
  const count = (bytes[row.at]! << 8) | bytes[row.at + 1]!;
  let at = row.at + 2;
  for (let i = 0; i < count; i++) {
    if (bytes[at] === UNCHANGED) return true;
    at = skipColumn(bytes, at);
  }
  return false;
}

/** The row with its unchanged values taken from `base`; from its columns `only`, or all where null. */
export function fillUnchanged(row: Row, base: Row, only: readonly number[] | null = null): Row {
  const count = (row.bytes[row.at]! << 8) | row.bytes[row.at + 1]!;
  const parts: Uint8Array[] = [row.bytes.subarray(row.at, row.at + 2)];
  let at = row.at + 2;
  let baseAt = base.at + 2;
  let filled = false;
  for (let i = 0; i < count; i++) {
    const end = skipColumn(row.bytes, at);
    const baseEnd = skipColumn(base.bytes, baseAt);
    const takes = row.bytes[at] === UNCHANGED && (only === null || only.includes(i));
    // A value that changed since is never NULL in the WAL, so a NULL base is a NULL value.
    if (takes && base.bytes[baseAt] !== UNCHANGED) {
      parts.push(base.bytes.subarray(baseAt, baseEnd));
      filled = true;
    } else parts.push(row.bytes.subarray(at, end));
    at = end;
    baseAt = baseEnd;
  }
  return filled ? new Row(row.relation, Buffer.concat(parts), 0) : row;
}

/** The row with bytes of its own: it may outlive its batch. */
export function copyRow(row: Row): Row {
  return new Row(row.relation, Buffer.from(row.bytes.subarray(row.at, tupleEnd(row))), 0);
}

/** Builds one tuple from text values: null for NULL, undefined for unchanged TOAST. */
export function encodeTuple(values: readonly (string | Uint8Array | null | undefined)[]): Buffer {
  const parts: Uint8Array[] = [Buffer.from([values.length >> 8, values.length & 255])];
  for (const value of values) {
    if (value === null) parts.push(Buffer.from([NULL]));
    else if (value === undefined) parts.push(Buffer.from([UNCHANGED]));
    else {
      const bytes = typeof value === 'string' ? Buffer.from(value) : value;
      const head = Buffer.alloc(5);
      head[0] = TEXT;
      head.writeInt32BE(bytes.length, 1);
      parts.push(head, bytes);
    }
  }
  return Buffer.concat(parts);
}
