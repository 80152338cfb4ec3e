import { WaltideError } from '../errors.ts';
import type { ByteWriter } from './byte-writer.ts';
import type { ChangeEvent } from './change-event.ts';
import type { EventCodec, RecordMeta } from './codec.ts';
import { sizeBound, writeBytes, writeColumn, writeUnsigned } from './json-encode.ts';
import { JsonReader } from './json-event.ts';
import { type RelationForm, relationForm } from './json-form.ts';
import { type SourceOptions, type TransactionForm, transactionForm } from './json-source.ts';
import type { Relation } from './relation.ts';
import { NULL, type Row, skipColumn, TEXT, UNCHANGED } from './row.ts';

export interface JsonCodecOptions extends SourceOptions {
  /** What stands in the value for a column that the WAL did not carry. Debezium's own by default. */
  readonly unavailablePlaceholder?: string;
}

const BEFORE = Buffer.from('{"before":');
const AFTER = Buffer.from(',"after":');
const NULL_LITERAL = Buffer.from('null');
const TABLE_ORDER = Buffer.from(',"data_collection_order":');
const MESSAGE = Buffer.from('{"op":"m"');
const NO_TABLE = Buffer.from(',"schema":"","table":""');
const OP_AT = ',"op":"'.length;
const OP = Buffer.from(',"op":"?"');

/** The value apart from its rows and the fragments of source and transaction: labels and four numbers. */
const FRAME_BYTES_MAX = 256;

/** Debezium's JSON change events without schemas: `{"before", "after", "source", "transaction", "op", "ts_ms", …}`. */
class JsonCodec implements EventCodec {
  readonly #options: SourceOptions;
  readonly #placeholder: Buffer;
  readonly #forms = new WeakMap<Relation, RelationForm>();
  readonly #reader: JsonReader;
  #relation: Relation | null = null;
  #form: RelationForm | null = null;
  #transaction: TransactionForm | null = null;

  constructor(options: JsonCodecOptions) {
    this.#options = options;
    this.#placeholder = Buffer.from(JSON.stringify(options.unavailablePlaceholder ?? '__debezium_unavailable_value'));
    this.#reader = new JsonReader((relation) => this.#formOf(relation), this.#placeholder);
  }

  writeKey(out: ByteWriter, event: ChangeEvent, which: 'before' | 'after'): boolean {
    if (event.op === 'm') return writeMessageKey(out, event);
    const { relation } = event;
    if (event.op === 't' || !relation || relation.key.length === 0) return false;
    const row = which === 'before' ? event.before : event.after;
    if (!row) throw missingRow(event, which);
    const form = this.#formOf(relation);
    for (let i = 0; i < relation.key.length; i++) {
      const column = relation.key[i]!;
      let src = row.bytes;
      let at = columnAt(row, column);
      // A long key column may be unchanged TOAST in the new row; the old row then carries it, since it is the identity.
      if (src[at] === UNCHANGED && event.before && row !== event.before) {
        src = event.before.bytes;
        at = columnAt(event.before, column);
      }
      if (src[at] === UNCHANGED) throw missingRow(event, which);
      this.#writeLabelled(out, form.keyLabels[i]!, form, column, src, at);
    }
    out.reserve(1)[out.length++] = 0x7d;
    return true;
  }

  writeValue(out: ByteWriter, event: ChangeEvent, as?: 'c' | 'd'): void {
    const { relation } = event;
    const transaction = this.#transactionOf(event);
    if (event.op === 'm' || !relation) {
      this.#writeMessage(out, event, transaction);
      return;
    }
    const before = as === 'c' ? null : event.before;
    const after = as === 'd' ? null : event.after;
    if (as && !before && !after) throw missingRow(event, as === 'c' ? 'after' : 'before');
    const form = this.#formOf(relation);
    this.#writeRow(out, BEFORE, form, before, after !== null);
    this.#writeRow(out, AFTER, form, after, false);
    const buf = out.reserve(transaction.bytes + form.source.length + FRAME_BYTES_MAX);
    let at = writeSource(buf, out.length, transaction, form.source, event);
    at = writeTransaction(buf, at, transaction, event);
    at = writeBytes(buf, at, OP);
    buf[at - OP.length + OP_AT] = (as ?? event.op).charCodeAt(0);
    at = writeBytes(buf, at, transaction.times);
    buf[at] = 0x7d;
    out.length = at + 1;
  }

  readEvent(value: Buffer, meta: RecordMeta): ChangeEvent {
    return this.#reader.read(value, meta);
  }

  #formOf(relation: Relation): RelationForm {
    if (relation === this.#relation) return this.#form!;
    let form = this.#forms.get(relation);
    if (!form) {
      form = relationForm(relation);
      this.#forms.set(relation, form);
    }
    this.#relation = relation;
    this.#form = form;
    return form;
  }

  #transactionOf(event: ChangeEvent): TransactionForm {
    const cached = this.#transaction;
    if (cached && cached.transaction === event.transaction) return cached;
    this.#transaction = transactionForm(event.transaction, this.#options);
    return this.#transaction;
  }

  #writeRow(out: ByteWriter, label: Buffer, form: RelationForm, row: Row | null, whole: boolean): void {
    const buf = out.reserve(label.length + 8);
    out.length = writeBytes(buf, out.length, label);
    if (!row) {
      out.length = writeBytes(buf, out.length, NULL_LITERAL);
      return;
    }
    const src = row.bytes;
    const { columns } = form;
    if (((src[row.at]! << 8) | src[row.at + 1]!) !== columns.length) throw badTuple('another number of columns');
    if (columns.length === 0) buf[out.length++] = 0x7b;
    let at = row.at + 2;
    for (let i = 0; i < columns.length; i++) {
      // Meta tells of unchanged columns of one row only, and the server always inlines the old one's.
      if (whole && src[at] === UNCHANGED) throw badTuple('an unchanged TOAST value in the old row');
      this.#writeLabelled(out, columns[i]!.label, form, i, src, at);
      at = skipColumn(src, at);
    }
    out.reserve(1)[out.length++] = 0x7d;
  }

  /** Appends a label and the value of the column at `at`. */
  #writeLabelled(out: ByteWriter, label: Buffer, form: RelationForm, index: number, src: Buffer, at: number): void {
    const kind = src[at];
    if (kind === TEXT) {
      const column = form.columns[index]!;
      const start = at + 5;
      const end = start + ((src[at + 1]! << 24) | (src[at + 2]! << 16) | (src[at + 3]! << 8) | src[at + 4]!);
      const buf = out.reserve(label.length + sizeBound(column.form, src, start, end));
      out.length = writeColumn(buf, writeBytes(buf, out.length, label), column, src, start, end);
      return;
    }
    if (kind !== NULL && kind !== UNCHANGED) throw badTuple(`a value of kind ${kind}`);
    const bytes = kind === NULL ? NULL_LITERAL : this.#placeholder;
    const buf = out.reserve(label.length + bytes.length);
    out.length = writeBytes(buf, writeBytes(buf, out.length, label), bytes);
  }

  #writeMessage(out: ByteWriter, event: ChangeEvent, transaction: TransactionForm): void {
    if (!event.message) throw badTuple('no relation');
    const { prefix, content } = event.message;
    const body = Buffer.from(
      `,"message":{"prefix":${JSON.stringify(prefix)},"content":"${content.toString('base64')}"}}`,
    );
    const table = event.relation ? this.#formOf(event.relation).source : NO_TABLE;
    const buf = out.reserve(transaction.bytes + table.length + body.length + FRAME_BYTES_MAX);
    let at = writeBytes(buf, out.length, MESSAGE);
    at = writeBytes(buf, at, transaction.times);
    at = writeSource(buf, at, transaction, table, event);
    at = writeTransaction(buf, at, transaction, event);
    out.length = writeBytes(buf, at, body);
  }
}

/** One codec per topic prefix and source; `name`, `database` and `version` appear in every event's source block. */
export function createJsonCodec(options: JsonCodecOptions): EventCodec {
  return new JsonCodec(options);
}

/** Debezium's key of a logical message: its prefix. */
function writeMessageKey(out: ByteWriter, event: ChangeEvent): boolean {
  out.push(Buffer.from(`{"prefix":${JSON.stringify(event.message?.prefix ?? '')}}`));
  return true;
}

function writeSource(
  buf: Buffer,
  start: number,
  transaction: TransactionForm,
  table: Buffer,
  event: ChangeEvent,
): number {
  let at = writeBytes(buf, start, transaction.sourceHead);
  const lsnAt = at;
  const lsn = Number(event.lsn);
  at = Number.isSafeInteger(lsn) ? writeUnsigned(buf, at, lsn) : at + buf.write(event.lsn.toString(), at, 'latin1');
  const lsnEnd = at;
  at = writeBytes(buf, at, transaction.sourceTimes);
  at = writeBytes(buf, at, table);
  at = writeBytes(buf, at, transaction.sourceTail);
  for (let i = lsnAt; i < lsnEnd; i++) buf[at++] = buf[i]!;
  return at;
}

/** Ends the source block and writes the transaction block; a snapshot's events have none. */
function writeTransaction(buf: Buffer, start: number, transaction: TransactionForm, event: ChangeEvent): number {
  if (event.seq === 0 || event.transaction.snapshot) return writeBytes(buf, start, transaction.noOrder);
  let at = writeBytes(buf, start, transaction.order);
  at = writeUnsigned(buf, at, event.seq);
  at = writeBytes(buf, at, TABLE_ORDER);
  at = writeUnsigned(buf, at, event.tableSeq);
  buf[at] = 0x7d;
  return at + 1;
}

/** Where a column's kind byte is; walks, since a key's columns mostly come first. */
function columnAt(row: Row, column: number): number {
  let at = row.at + 2;
  for (let i = 0; i < column; i++) at = skipColumn(row.bytes, at);
  return at;
}

function missingRow(event: ChangeEvent, which: 'before' | 'after'): WaltideError {
  return new WaltideError(
    'PROTOCOL',
    `${event.toString()} does not carry the key of its row ${which} the change`,
    "Report this with the table's definition and its REPLICA IDENTITY.",
  );
}

function badTuple(what: string): WaltideError {
  return new WaltideError(
    'PROTOCOL',
    `A row of the stream has ${what}`,
    'Report this with the PostgreSQL version and the definition of the table.',
  );
}
