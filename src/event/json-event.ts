import { ByteWriter } from './byte-writer.ts';
import { ChangeEvent, type LogicalMessage, type Op } from './change-event.ts';
import type { RecordMeta } from './codec.ts';
import { appendColumn, takeNull } from './json-decode.ts';
import type { ColumnForm, RelationForm } from './json-form.ts';
import { JsonScanner } from './json-scanner.ts';
import type { Lsn } from './lsn.ts';
import type { Relation } from './relation.ts';
import { NULL, Row, TEXT, UNCHANGED } from './row.ts';

const QUOTE = 0x22;
const COLON = 0x3a;
const OPEN = 0x7b;
const CLOSE = 0x7d;

const BEFORE = Buffer.from('"before"');
const AFTER = Buffer.from('"after"');
const SOURCE = Buffer.from('"source"');
const TRANSACTION = Buffer.from('"transaction"');
const OP = Buffer.from('"op"');
const MESSAGE = Buffer.from('"message"');
const LSN = Buffer.from('"lsn"');
const TABLE_ORDER = Buffer.from('"data_collection_order"');
const PREFIX = Buffer.from('"prefix"');
const CONTENT = Buffer.from('"content"');
const OPS: readonly string[] = ['c', 'u', 'd', 'r', 't', 'm'];
const EMPTY = Buffer.alloc(0);

/** Rows of many events share one buffer of about this size, so that reading an event seldom allocates one. */
const SLAB_BYTES = 1 << 18;

/** Envelope → event: the way back from `writeValue`. Fields may come in any order; unknown ones are passed over. */
export class JsonReader {
  readonly #formOf: (relation: Relation) => RelationForm;
  readonly #placeholder: Buffer;
  readonly #scanner = new JsonScanner(EMPTY);
  #out = new ByteWriter(SLAB_BYTES);
  // What the envelope at hand said so far.
  #before: Row | null = null;
  #after: Row | null = null;
  #message: LogicalMessage | null = null;
  #op = '';
  #lsn: Lsn | null = null;
  #tableSeq = 0;

  constructor(formOf: (relation: Relation) => RelationForm, placeholder: Buffer) {
    this.#formOf = formOf;
    this.#placeholder = placeholder;
  }

  read(value: Buffer, meta: RecordMeta): ChangeEvent {
    const scanner = this.#scanner;
    scanner.bytes = value;
    scanner.at = 0;
    // Rows of earlier events keep the old slab alive; it is never written to again.
    if (this.#out.length > SLAB_BYTES >> 1) this.#out = new ByteWriter(SLAB_BYTES);
    this.#before = null;
    this.#after = null;
    this.#message = null;
    this.#op = '';
    this.#lsn = null;
    this.#tableSeq = meta.seq;
    if (scanner.enter(OPEN, CLOSE)) {
      do this.#member(meta);
      while (scanner.more(CLOSE));
    }
    if (!Number.isNaN(scanner.peek())) scanner.fail('the end of the value');
    const lsn = this.#lsn;
    const op = this.#op as Op;
    if (lsn === null) return scanner.fail('"source" with "lsn" before');
    if (!OPS.includes(op)) scanner.fail('"op" before');
    if ((op === 'm') !== (this.#message !== null)) scanner.fail('"message" for op m, and for no other, before');
    if (op !== 'm' && meta.relation === null) scanner.fail('a relation in the headers before');
    if ((op === 'c' || op === 'u' || op === 'r') !== (this.#after !== null)) {
      scanner.fail(`the rows that op ${op} has before`);
    }
    scanner.bytes = EMPTY;
    const { transaction, seq, relation } = meta;
    return new ChangeEvent(
      op,
      transaction,
      seq,
      this.#tableSeq,
      lsn,
      relation,
      this.#before,
      this.#after,
      this.#message,
    );
  }

  #member(meta: RecordMeta): void {
    const scanner = this.#scanner;
    if (scanner.peek() !== QUOTE) scanner.fail('a name');
    if (scanner.take(BEFORE)) this.#before = this.#row(meta, false);
    else if (scanner.take(AFTER)) this.#after = this.#row(meta, true);
    else if (scanner.take(SOURCE)) this.#lsn = this.#integerIn(LSN);
    else if (scanner.take(TRANSACTION)) this.#tableSeq = Number(this.#integerIn(TABLE_ORDER) ?? meta.seq);
    else if (scanner.take(OP)) {
      scanner.expect(COLON);
      this.#op = scanner.text();
    } else if (scanner.take(MESSAGE)) this.#message = this.#logicalMessage(meta);
    else this.#skipMember();
  }

  #skipMember(): void {
    const scanner = this.#scanner;
    scanner.string();
    scanner.expect(COLON);
    scanner.skip();
  }

  /** The whole number called `name` in the object that follows; null where the object or the number is null. */
  #integerIn(name: Buffer): bigint | null {
    const scanner = this.#scanner;
    scanner.expect(COLON);
    let found: bigint | null = null;
    if (takeNull(scanner) || !scanner.enter(OPEN, CLOSE)) return found;
    do {
      if (scanner.peek() !== QUOTE) scanner.fail('a name');
      if (scanner.take(name)) {
        scanner.expect(COLON);
        found = takeNull(scanner) ? null : scanner.integer();
      } else this.#skipMember();
    } while (scanner.more(CLOSE));
    return found;
  }

  #logicalMessage(meta: RecordMeta): LogicalMessage | null {
    const scanner = this.#scanner;
    scanner.expect(COLON);
    if (takeNull(scanner)) return null;
    let prefix = '';
    let content = EMPTY;
    if (scanner.enter(OPEN, CLOSE)) {
      do {
        if (scanner.peek() !== QUOTE) scanner.fail('a name');
        if (scanner.take(PREFIX)) {
          scanner.expect(COLON);
          prefix = scanner.text();
        } else if (scanner.take(CONTENT)) {
          scanner.expect(COLON);
          content = Buffer.from(scanner.text(), 'base64');
        } else this.#skipMember();
      } while (scanner.more(CLOSE));
    }
    // Only messages outside transactions have no place in one.
    return { prefix, content, transactional: meta.seq !== 0 };
  }

  /** One row as a tuple; null where the event has none. `isAfter` tells which of the two it is. */
  #row(meta: RecordMeta, isAfter: boolean): Row | null {
    const scanner = this.#scanner;
    scanner.expect(COLON);
    if (takeNull(scanner)) return null;
    const { relation } = meta;
    if (!relation) return scanner.fail('no row, since the headers name no relation,');
    const { columns, byName } = this.#formOf(relation);
    const out = this.#out;
    const start = out.length;
    const begin = scanner.at;
    const head = out.reserve(2);
    head[start] = columns.length >> 8;
    head[start + 1] = columns.length & 255;
    out.length += 2;
    if (!scanner.enter(OPEN, CLOSE)) {
      if (columns.length > 0) scanner.fail('all columns before');
      return new Row(relation, out.bytes, start);
    }
    for (let i = 0; i < columns.length; i++) {
      scanner.peek();
      const inOrder = scanner.take(columns[i]!.name);
      if (inOrder) {
        scanner.expect(COLON);
        this.#column(columns[i]!, i, meta.unchanged, isAfter);
      }
      if (!inOrder || scanner.more(CLOSE) !== i < columns.length - 1) {
        scanner.at = begin;
        out.length = start + 2;
        this.#rowOutOfOrder(columns, byName, meta.unchanged, isAfter);
        break;
      }
    }
    return new Row(relation, out.bytes, start);
  }

  /** The slow road: finds where each column's value is, then takes them in the relation's order. */
  #rowOutOfOrder(
    columns: readonly ColumnForm[],
    byName: ReadonlyMap<string, number>,
    unchanged: readonly number[],
    isAfter: boolean,
  ): void {
    const scanner = this.#scanner;
    const places = new Int32Array(columns.length).fill(-1);
    let missing = columns.length;
    scanner.enter(OPEN, CLOSE);
    do {
      const index = byName.get(scanner.text());
      if (index === undefined) throw scanner.fault('a column of the relation before');
      scanner.expect(COLON);
      scanner.peek();
      if (places[index]! >= 0) scanner.fail('each column once');
      places[index] = scanner.at;
      missing--;
      scanner.skip();
    } while (scanner.more(CLOSE));
    if (missing > 0) scanner.fail('all columns before');
    const end = scanner.at;
    for (let i = 0; i < columns.length; i++) {
      scanner.at = places[i]!;
      this.#column(columns[i]!, i, unchanged, isAfter);
    }
    scanner.at = end;
  }

  #column(column: ColumnForm, index: number, unchanged: readonly number[], isAfter: boolean): void {
    const scanner = this.#scanner;
    const out = this.#out;
    const first = scanner.peek();
    if (first === 0x6e && takeNull(scanner)) {
      out.reserve(1)[out.length++] = NULL;
      return;
    }
    // An old row is nearly always complete: there both the header and the placeholder must say so.
    if (unchanged.length > 0 && unchanged.includes(index) && (isAfter || scanner.take(this.#placeholder))) {
      if (isAfter) scanner.skip();
      out.reserve(1)[out.length++] = UNCHANGED;
      return;
    }
    const at = out.length;
    out.reserve(5);
    out.length += 5;
    appendColumn(out, scanner, column);
    const length = out.length - at - 5;
    const { bytes } = out;
    bytes[at] = TEXT;
    bytes[at + 1] = length >>> 24;
    bytes[at + 2] = (length >>> 16) & 255;
    bytes[at + 3] = (length >>> 8) & 255;
    bytes[at + 4] = length & 255;
  }
}
