import type { ChangeEvent } from '../event/change-event.ts';
import type { Relation } from '../event/relation.ts';
import { copyRow, fillUnchanged, hasUnchanged, type Row } from '../event/row.ts';
import type { KeyText } from '../postgres/snapshots.ts';
import { isVisible, type PgSnapshot, TouchedKeys, type Verdict } from './reconcile.ts';

/** PostgreSQL's text has no NUL, so it can part the columns of a key. */
export const SEPARATOR = '\u0000';

/** The key of the row that `text` gives values of, as one string; null where a part of it is not there. */
export function keyOf(text: (column: number) => string | null | undefined, key: readonly number[]): string | null {
  if (key.length === 1) return text(key[0]!) ?? null;
  let all = '';
  for (let i = 0; i < key.length; i++) {
    const part = text(key[i]!);
    if (part === null || part === undefined) return null;
    all += i === 0 ? part : SEPARATOR + part;
  }
  return all;
}

export const keyOfRow = (row: Row, key: readonly number[]): string | null => keyOf((column) => row.text(column), key);

export function keyText(row: Row, columns: readonly number[]): KeyText {
  return columns.map((column) => row.text(column) ?? '');
}

/** True where a row of the one can stand for a row of the other, whatever the table is called. */
export function sameShape(a: Relation, b: Relation): boolean {
  return (
    a === b ||
    (a.columns.length === b.columns.length &&
      a.columns.every((column, i) => {
        const other = b.columns[i]!;
        return (
          column.name === other.name &&
          column.modifier === other.modifier &&
          column.type.oid === other.type.oid &&
          column.type.labels.length === other.type.labels.length
        );
      }) &&
      a.key.join() === b.key.join())
  );
}

/** An image in keys: one takes about 256 bytes with all that holds it. */
function weighImage(row: Row): number {
  return 1 + (row.bytes.length >> 8);
}

/** A row of before with the values that the later one does not carry. Null where nothing is missing any more. */
function mergeImages(earlier: Row, later: Row): Row | null {
  const merged = fillUnchanged(later, earlier);
  return hasUnchanged(merged) ? merged : null;
}

/** With what the row before tells: all of it, or its key, which an UPDATE does not carry either where it is TOASTed. */
function filled(after: Row, before: Row): Row {
  const { replicaIdentity, key } = after.relation;
  return hasUnchanged(after) ? fillUnchanged(after, before, replicaIdentity === 'f' ? null : key) : after;
}

/** Follows what the stream does to one table while a snapshot of it is under way. Called for every event of the table. */
export class TableWatch {
  readonly oid: number;
  readonly #keysMax: number;
  /** A row moved, without all of its values, from a key that may not be copied yet. Called with both keys, in stream order. */
  readonly #onMove: (from: KeyText, to: KeyText) => void;
  #touched: TouchedKeys<Row> | null = null;
  /** Shapes that the table had in the stream, the transaction that showed each, newest last. */
  #shapes: { readonly xid: number; readonly relation: Relation }[] = [];
  /** Columns of the key in the order of its index. */
  keyColumns: readonly number[] = [];

  constructor(oid: number, keysMax: number, onMove: (from: KeyText, to: KeyText) => void) {
    this.oid = oid;
    this.#keysMax = keysMax;
    this.#onMove = onMove;
  }

  /** From this place of the stream on every change is remembered. */
  startNoting(): void {
    this.#touched = new TouchedKeys<Row>({ keysMax: this.#keysMax, weigh: weighImage, merge: mergeImages });
    this.#shapes = [];
  }

  stopNoting(): void {
    this.#touched = null;
    this.#shapes = [];
  }

  note(event: ChangeEvent): void {
    const relation = event.relation!;
    const { xid, snapshot } = event.transaction;
    if (snapshot) return;
    if (this.#shapes.at(-1)?.relation !== relation) this.#shapes.push({ xid, relation });
    if (event.op === 'm') return;
    // Without a key in the stream it may be any row. A key that is there now counts for the stream a moment later.
    if (event.op === 't' || relation.key.length === 0) {
      this.#touched?.voidAll(xid);
      return;
    }
    const { before } = event;
    const after = event.after && before ? filled(event.after, before) : event.after;
    const to = after && keyOfRow(after, relation.key);
    const from = before && keyOfRow(before, relation.key);
    if (from !== null && from !== to) this.#touched?.touch(xid, from, 'gone');
    if (!after || to === null) return;
    if (event.op === 'c' || !hasUnchanged(after)) this.#touched?.touch(xid, to, 'whole');
    else if (from !== null && from !== to) {
      this.#touched?.touch(xid, to, 'gone');
      const columns = this.keyColumns.length > 0 ? this.keyColumns : relation.key;
      this.#onMove(keyText(before!, columns), keyText(after, columns));
    } else this.#touched?.touch(xid, to, { image: this.#touched ? copyRow(after) : after });
  }

  /** What a chunk of rows shaped as `relation`, read under `snapshot`, does not show. */
  verdict(snapshot: PgSnapshot, relation: Relation): Verdict<Row> {
    if (!this.#touched) return { void: true, touched: new Map() };
    const verdict = this.#touched.verdict(snapshot);
    // A shape that the chunk's snapshot does not know is newer than the chunk's.
    const newer = this.#shapes.some((shape) => !isVisible(shape.xid, snapshot) && !sameShape(shape.relation, relation));
    return newer ? { ...verdict, void: true } : verdict;
  }

  /** See TouchedKeys.forget. */
  forget(snapshot: PgSnapshot): void {
    this.#touched?.forget(snapshot);
    this.#shapes = this.#shapes.filter((shape, i) => i === this.#shapes.length - 1 || !isVisible(shape.xid, snapshot));
  }

  /** The object that the stream uses for a table of this shape, since encoders and sinks remember what they worked out by it. */
  streamed(relation: Relation): Relation {
    const last = this.#shapes.at(-1)?.relation;
    return last && sameShape(last, relation) ? last : relation;
  }
}
