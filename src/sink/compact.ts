import type { ChangeEvent } from '../event/change-event.ts';
import type { Relation } from '../event/relation.ts';
import { fillUnchanged, hasUnchanged, type Row, skipColumn, TEXT, tupleEnd } from '../event/row.ts';

/*
 * Many changes of one table become at most one delete and one insert per key, in a form that a bulk store can run in
 * three statements: read what merges need, delete, insert.
 *
 * Keys are compared by their text bytes, not by value, also for types where different texts are equal (numeric 1.0
 * and 1.00, citext, -0). That is exact: an event names the very row version that the WAL holds, and a version's text
 * was the text of the event that brought it here. PostgreSQL decides by bytes, too, whether an update changed the key.
 * Relies on upstream passing each event once, and on keys that are checked at once: PostgreSQL does not take
 * deferrable constraints as replica identity.
 */

/** One row whose unchanged TOAST values the batch does not carry. */
export interface Merge {
  readonly row: Row;
  /** Its key columns name the row, as stored before the batch, that holds the missing values. */
  readonly origin: Row;
  /** Changes come again, and the row came from another key: where `origin` is not stored, nobody has its values. */
  readonly moved: boolean;
}

export interface Compacted {
  /** True where everything stored before goes first. Deletes and inserts come after it. */
  readonly truncate: boolean;
  /** Rows whose key columns are to be deleted; at most one per key. Other columns may hold anything. */
  readonly deletes: readonly Row[];
  /** Whole rows; at most one per key. */
  readonly inserts: readonly Row[];
  /** To be read before any delete runs, and inserted after. */
  readonly merges: readonly Merge[];
  /** Changes come again, and what they left of this row's values cannot be told from what an older row left under its key. */
  readonly lost: Row | null;
}

interface Slot {
  /** Names the stored row that must go; null where none was stored under this key. */
  stored: Row | null;
  row: Row | null;
  /** Where `row` lacks values: who has them. */
  origin: Row | null;
  /** As `Merge.moved`; 'over': here was another row before, or none, in this batch. */
  moved: 'no' | 'yes' | 'over';
}

const INTEGERS = new Set(['int2', 'int4', 'int8', 'oid']);

/**
 * What the stored rows are to the changes.
 * exact: the rows as they were right before the changes; what a change needs must be there.
 * partial: some of those rows, the others are still to come from a snapshot; a change of a row that is absent
 *   brings it, or does nothing where it does not carry the whole row.
 * later: rows that have seen these changes already and some after them, which all come again.
 */
export type Stored = 'exact' | 'partial' | 'later';

/** Folds the changes of one table, all of one relation shape with a key, into the last state per key. */
export class KeyedCompactor {
  readonly #key: readonly number[];
  readonly #integer: boolean;
  readonly #full: boolean;
  readonly #stored: Stored;
  #truncate = false;
  /** Rows that nothing has touched since, as long as only inserts came; null once `#slots` is in use. */
  #plain: Row[] | null = [];
  readonly #slots = new Map<number | string, Slot>();

  constructor(relation: Relation, stored: Stored = 'exact') {
    this.#stored = stored;
    this.#key = relation.key;
    const only = relation.key.length === 1 ? relation.columns[relation.key[0]!]! : null;
    this.#integer = only !== null && only.type.schema === 'pg_catalog' && INTEGERS.has(only.type.name);
    this.#full = relation.replicaIdentity === 'f';
  }

  add(event: ChangeEvent): void {
    switch (event.op) {
      case 'c':
      case 'r':
        this.#insert(event);
        return;
      case 'u':
        this.#index();
        this.#update(event);
        return;
      case 'd':
        this.#index();
        this.#remove(event.before!);
        return;
      case 't':
        this.#truncate = true;
        this.#plain = [];
        this.#slots.clear();
        return;
      case 'm':
        return;
    }
  }

  finish(): Compacted {
    if (this.#plain) return { truncate: this.#truncate, deletes: [], inserts: this.#plain, merges: [], lost: null };
    const deletes: Row[] = [];
    const inserts: Row[] = [];
    const merges: Merge[] = [];
    let lost: Row | null = null;
    for (const slot of this.#slots.values()) {
      if (slot.stored) deletes.push(slot.stored);
      if (slot.row === null) continue;
      if (!slot.origin) inserts.push(slot.row);
      else if (slot.moved === 'over') lost ??= slot.row;
      else merges.push({ row: slot.row, origin: slot.origin, moved: slot.moved === 'yes' });
    }
    return { truncate: this.#truncate, deletes, inserts, merges, lost };
  }

  /** Inserts alone need no map; the first update or delete does. */
  #index(): void {
    const plain = this.#plain;
    if (!plain) return;
    this.#plain = null;
    for (const row of plain) this.#put(row, false);
  }

  /** A row of a snapshot that runs beside the stream may be there already; every row may where changes come again. */
  #insert(event: ChangeEvent): void {
    const row = event.after!;
    const kind = event.transaction.snapshot?.kind ?? 'initial';
    const replaces = kind !== 'initial' || this.#stored === 'later';
    if (replaces) this.#index();
    if (this.#plain) this.#plain.push(row);
    else this.#put(row, replaces);
  }

  #put(row: Row, replaces: boolean): void {
    const key = rowKey(row, this.#key, this.#integer);
    const slot = this.#slots.get(key);
    if (slot) {
      slot.row = row;
      slot.origin = null;
      slot.moved = 'no';
      if (replaces) slot.stored ??= row;
    } else this.#slots.set(key, { stored: replaces ? row : null, row, origin: null, moved: 'no' });
  }

  #remove(before: Row): void {
    const key = rowKey(before, this.#key, this.#integer);
    const slot = this.#slots.get(key);
    if (!slot) {
      this.#slots.set(key, { stored: before, row: null, origin: null, moved: 'no' });
    } else if (slot.row === null) {
      slot.stored ??= before;
    } else {
      slot.row = null;
      slot.origin = null;
    }
  }

  #update(event: ChangeEvent): void {
    const { before } = event;
    let row = event.after!;
    // The old tuple carries a TOASTed key even where the key did not change, and every value under FULL.
    if (before && hasUnchanged(row)) row = fillUnchanged(row, before, this.#full ? null : this.#key);
    const newKey = rowKey(row, this.#key, this.#integer);
    const oldKey = before ? rowKey(before, this.#key, this.#integer) : newKey;
    const old = this.#slots.get(oldKey);
    let origin: Row | null = null;
    if (hasUnchanged(row)) {
      // Where changes come again, the row under the new key has seen this one, unless an older row came again there first;
      // another may have taken the old key.
      origin = this.#stored === 'later' ? row : (before ?? row);
      if (old?.row) {
        row = fillUnchanged(row, old.row);
        if (!hasUnchanged(row)) origin = null;
        else if (this.#stored !== 'later') origin = old.origin;
      }
    }
    if (oldKey === newKey) {
      if (!old) this.#slots.set(newKey, { stored: row, row, origin, moved: 'no' });
      else {
        if (old.row === null) old.stored ??= row;
        old.row = row;
        old.origin = origin;
      }
      return;
    }
    this.#remove(before!);
    const target = this.#slots.get(newKey);
    const later = this.#stored === 'later';
    const stored = later ? row : null;
    if (target) {
      target.row = row;
      target.origin = origin;
      target.moved = later ? 'over' : 'no';
      target.stored ??= stored;
    } else this.#slots.set(newKey, { stored, row, origin, moved: later ? 'yes' : 'no' });
  }
}

/** An update or delete of a table where nothing tells which row it meant. */
export class KeylessError extends Error {
  constructor() {
    super(
      'a table without a key and without REPLICA IDENTITY FULL takes inserts only, but a row was updated or deleted',
    );
    this.name = 'KeylessError';
  }
}

export interface CountedRow {
  readonly row: Row;
  readonly count: number;
}

export interface CompactedBag {
  readonly truncate: boolean;
  /** Whole rows, each different; `count` stored rows equal to it go. */
  readonly deletes: readonly CountedRow[];
  /** Whole rows; equal ones may repeat. */
  readonly inserts: readonly Row[];
}

/**
 * For tables without a key, where rows are equal or not and nothing else: only how often a row was added or taken
 * away counts. Updates and deletes need whole old rows, that is REPLICA IDENTITY FULL; `add` throws a KeylessError
 * where the relation has another one.
 */
export class BagCompactor {
  readonly #full: boolean;
  #truncate = false;
  #plain: Row[] | null = [];
  readonly #counts = new Map<string, { row: Row; count: number }>();

  constructor(relation: Relation) {
    this.#full = relation.replicaIdentity === 'f';
  }

  add(event: ChangeEvent): void {
    switch (event.op) {
      case 'c':
      case 'r':
        if (this.#plain) this.#plain.push(event.after!);
        else this.#change(event.after!, 1);
        return;
      case 'u':
      case 'd': {
        if (!this.#full) throw new KeylessError();
        this.#index();
        const before = event.before!;
        this.#change(before, -1);
        if (event.op === 'u') this.#change(fillUnchanged(event.after!, before), 1);
        return;
      }
      case 't':
        this.#truncate = true;
        this.#plain = [];
        this.#counts.clear();
        return;
      case 'm':
        return;
    }
  }

  finish(): CompactedBag {
    if (this.#plain) return { truncate: this.#truncate, deletes: [], inserts: this.#plain };
    const deletes: CountedRow[] = [];
    const inserts: Row[] = [];
    for (const { row, count } of this.#counts.values()) {
      if (count < 0) deletes.push({ row, count: -count });
      for (let i = 0; i < count; i++) inserts.push(row);
    }
    return { truncate: this.#truncate, deletes, inserts };
  }

  #index(): void {
    const plain = this.#plain;
    if (!plain) return;
    this.#plain = null;
    for (const row of plain) this.#change(row, 1);
  }

  #change(row: Row, by: number): void {
    const key = row.bytes.toString('latin1', row.at, tupleEnd(row));
    const entry = this.#counts.get(key);
    if (entry) entry.count += by;
    else this.#counts.set(key, { row, count: by });
  }
}

/** The key columns of a row as a map key: a number for one short integer, else their bytes (lengths before, if several). */
function rowKey(row: Row, key: readonly number[], integer: boolean): number | string {
  const { bytes } = row;
  if (key.length === 1) {
    const at = columnAt(row, key[0]!);
    const end = skipColumn(bytes, at);
    if (integer && bytes[at] === TEXT && end - at <= 20) return shortInteger(bytes, at + 5, end);
    return bytes.toString('latin1', at, end);
  }
  let text = '';
  for (const column of key) {
    const at = columnAt(row, column);
    text += bytes.toString('latin1', at, skipColumn(bytes, at));
  }
  return text;
}

function columnAt(row: Row, column: number): number {
  let at = row.at + 2;
  for (let i = 0; i < column; i++) at = skipColumn(row.bytes, at);
  return at;
}

/** At most 15 characters, so exact. */
function shortInteger(bytes: Buffer, start: number, end: number): number {
  const negative = bytes[start] === 0x2d;
  let value = 0;
  for (let i = negative ? start + 1 : start; i < end; i++) value = value * 10 + bytes[i]! - 0x30;
  return negative ? -value : value;
}
