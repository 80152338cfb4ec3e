import type { Batch } from './batch.ts';
import { ByteWriter } from './byte-writer.ts';
import { ChangeEvent, type Transaction } from './change-event.ts';
import { BACKSLASH, columnStart, copyRowToTuple, isNullAt, TAB } from './copy-text.ts';
import type { Lsn } from './lsn.ts';
import type { Relation } from './relation.ts';
import { Row } from './row.ts';

/** What a streamed row takes in memory beside its own bytes, about; copied rows take nothing. */
const ROW_OVERHEAD_BYTES = 400;

/** A row group of DuckDB, the largest one that a store of columns has: it is written once, and whole, where it comes whole. */
export const ROW_GROUP = 122_880;

/** A chunk of a snapshot of so many rows is worth a transaction of its own, beside the stream where the sink can do that. */
export const LARGE_CHUNK_ROWS = 10_000;

/** Many rows as COPY sent them: no object per row, and nothing decoded until someone asks. */
export class CopiedRows {
  readonly relation: Relation;
  readonly bytes: Buffer;
  /** Where the text of each row begins in `bytes`, and where it ends, its newline included. */
  readonly starts: Int32Array;
  readonly ends: Int32Array;

  constructor(relation: Relation, bytes: Buffer, starts: Int32Array, ends: Int32Array) {
    this.relation = relation;
    this.bytes = bytes;
    this.starts = starts;
    this.ends = ends;
  }

  get count(): number {
    return this.starts.length;
  }

  /** The value of one column of row `index` in PostgreSQL's text form; null for NULL. */
  text(index: number, column: number): string | null {
    const { bytes } = this;
    const stop = this.ends[index]! - 1;
    const at = columnStart(bytes, this.starts[index]!, column);
    if (isNullAt(bytes, at)) return null;
    let end = at;
    let escaped = false;
    for (; end < stop && bytes[end] !== TAB; end++) {
      if (bytes[end] !== BACKSLASH) continue;
      escaped = true;
      end++;
    }
    return escaped ? this.rows(index, index + 1)[0]!.text(column)! : bytes.toString('utf8', at, end);
  }

  /** Those of the rows at `indexes`, or all where null, as rows of `relation`, which describes the same columns. */
  select(indexes: readonly number[] | null, relation: Relation): CopiedRows {
    if (!indexes) return new CopiedRows(relation, this.bytes, this.starts, this.ends);
    const starts = new Int32Array(indexes.length);
    const ends = new Int32Array(indexes.length);
    for (let i = 0; i < indexes.length; i++) {
      starts[i] = this.starts[indexes[i]!]!;
      ends[i] = this.ends[indexes[i]!]!;
    }
    return new CopiedRows(relation, this.bytes, starts, ends);
  }

  /** Those from index `from` to before `to`; no bytes are copied. */
  slice(from: number, to: number): CopiedRows {
    if (from === 0 && to === this.count) return this;
    return new CopiedRows(this.relation, this.bytes, this.starts.subarray(from, to), this.ends.subarray(from, to));
  }

  /** What the rows take as COPY sent them, in bytes. */
  get size(): number {
    return this.count === 0 ? 0 : this.ends[this.count - 1]! - this.starts[0]!;
  }

  /** Rows from index `from` to before `to`. Throws a RangeError where one does not have the relation's columns. */
  rows(from = 0, to = this.count): Row[] {
    if (from >= to) return [];
    const { relation, bytes, starts, ends } = this;
    const out = new ByteWriter((ends[to - 1]! - starts[from]!) * 2);
    const tuples: number[] = [];
    for (let i = from; i < to; i++)
      tuples.push(copyRowToTuple(bytes, starts[i]!, ends[i]!, relation.columns.length, out));
    return tuples.map((at) => new Row(relation, out.bytes, at));
  }
}

/** Rows of one COPY, all of which have the same columns. Throws a RangeError where these are not the relation's. */
export function copiedRows(
  relation: Relation,
  bytes: Buffer,
  starts: Int32Array | readonly number[],
  ends: Int32Array | readonly number[],
): CopiedRows {
  const rows = new CopiedRows(relation, bytes, int32(starts), int32(ends));
  rows.rows(0, Math.min(1, rows.count));
  return rows;
}

const int32 = (numbers: Int32Array | readonly number[]): Int32Array =>
  numbers instanceof Int32Array ? numbers : new Int32Array(numbers);

/** Many events of op r in one, of rows with different keys, for whoever takes rows as COPY sent them; `eachRow` gives the single ones. */
export class CopyEvent extends ChangeEvent {
  readonly copied: CopiedRows;

  /** `seq` and `tableSeq` are those of the last row: whoever has come so far has all of them. */
  constructor(transaction: Transaction, seq: number, tableSeq: number, lsn: Lsn, copied: CopiedRows) {
    super('r', transaction, seq, tableSeq, lsn, copied.relation, null, null);
    this.copied = copied;
  }

  events(): ChangeEvent[] {
    const { transaction, lsn, relation, copied } = this;
    const seq = this.seq - copied.count + 1;
    const tableSeq = this.tableSeq - copied.count + 1;
    return copied
      .rows()
      .map((row, i) => new ChangeEvent('r', transaction, seq + i, tableSeq + i, lsn, relation, null, row));
  }
}

/** How many changes the events stand for. */
export function countRows(events: readonly ChangeEvent[]): number {
  let count = events.length;
  for (const event of events) if (event.op === 'r' && event instanceof CopyEvent) count += event.copied.count - 1;
  return count;
}

/** What the batch counts for where budgets are meant for streamed rows: less for copied ones, which take less memory. */
export function weightOf({ events, bytes }: Batch): number {
  const rows = countRows(events);
  return rows === events.length ? bytes : weightOfCopied(bytes, rows);
}

/** The same of a batch of copied rows alone. */
export const weightOfCopied = (bytes: number, rows: number): number =>
  Math.max(bytes / 4, bytes - rows * ROW_OVERHEAD_BYTES);

/** The same events, one for each row. */
export function eachRow(events: readonly ChangeEvent[]): readonly ChangeEvent[] {
  if (!events.some((event) => event.op === 'r' && event instanceof CopyEvent)) return events;
  return events.flatMap((event) => (event instanceof CopyEvent ? event.events() : [event]));
}
