import type { DuckdbSinkConfig } from '../../config/schema.ts';
import { retryOf } from '../../dead-letter/dead-letter.ts';
import { WaltideError } from '../../errors.ts';
import { ChangeEvent, lacksValues, type Op } from '../../event/change-event.ts';
import { eachRow } from '../../event/copied-rows.ts';
import type { Position } from '../../event/position.ts';
import { type Relation, relationName } from '../../event/relation.ts';
import type { Row } from '../../event/row.ts';
import { rowName } from '../../event/row-text.ts';
import type { Log } from '../../log.ts';
import type { DeadLetters } from './dead-letters.ts';
import { type Misfit, RowCheck, withNulls } from './row-check.ts';
import { targetOfColumn } from './schema.ts';
import type { RunTarget } from './table.ts';

export type SetAsidePolicy = Pick<DuckdbSinkConfig, 'onUnrepresentable' | 'rowBytesMax'>;

/** An event's rows as far as they fit. */
interface Looked {
  readonly event: ChangeEvent;
  /** False where what names the row does not fit, so that no such row can be stored. */
  readonly beforeFits: boolean;
  readonly afterFits: boolean;
  /** The new row without what does not fit: enough to delete it by. */
  readonly name: Row | null;
  /** Why the new row cannot be held; null where it can. */
  readonly reason: string | null;
}

/**
 * Takes out of a table's events what its columns cannot hold: under `onUnrepresentable: dead-letter | null` whatever does
 * not fit, under `text` what is no text or too long. A row that is set aside is absent from the table until a change
 * brings it whole again, or deletes it. Not the old row instead: a later update that leaves out unchanged values would
 * be completed from values that are not the source's.
 */
export class SetAside {
  readonly #policy: SetAsidePolicy['onUnrepresentable'];
  readonly #rowBytesMax: number;
  readonly #letters: DeadLetters;
  readonly #log: Log;
  /** Tables whose rows are looked at one by one, since one of them did not fit. */
  readonly #watched: Set<string>;
  /** Retried letters whose rows were absent when they came. */
  readonly #retried = new WeakSet<ChangeEvent>();
  #nulled = 0;

  constructor(policy: SetAsidePolicy, letters: DeadLetters, watched: Set<string>, log: Log) {
    this.#watched = watched;
    this.#policy = policy.onUnrepresentable;
    this.#rowBytesMax = policy.rowBytesMax;
    this.#letters = letters;
    this.#log = log;
  }

  /** Values stored as NULL since the start; those of a transaction that was tried again count twice. */
  get nulled(): number {
    return this.#nulled;
  }

  /** False where the table is watched already, or text is to hold the value: looking again would change nothing. */
  watch(relation: Relation, fitsText: boolean): boolean {
    if ((this.#policy === 'text' && fitsText) || this.#watched.has(relationName(relation))) return false;
    this.#watched.add(relationName(relation));
    return true;
  }

  /** Rows of the table are looked at one by one, even where no letter is retried. */
  looksAt(relation: Relation): boolean {
    return this.#watched.has(relationName(relation)) || this.#letters.isOpen(relation);
  }

  /**
   * The events without what does not fit. `isSecond` where another table has taken those that were streamed before, so
   * that they are recorded already.
   */
  async sift(target: RunTarget, events: readonly ChangeEvent[], isSecond: boolean): Promise<readonly ChangeEvent[]> {
    const { relation } = target;
    const first = events[0];
    if (!this.looksAt(relation) && (first === undefined || retryOf(first) === null)) return events;
    const targets = target.columns.map((column) => column && targetOfColumn(column));
    const check = new RowCheck(targets, this.#rowBytesMax);
    const before = { open: this.#letters.open, nulled: this.#nulled };
    const rest: ChangeEvent[] = [];
    for (const event of eachRow(events)) {
      const records = !isSecond || event.transaction.snapshot !== null;
      const left = this.#left(this.#look(event, check, relation), records);
      if (left) rest.push(left);
    }
    await this.#letters.flush(relation);
    const where = { table: relationName(relation) };
    const aside = this.#letters.open - before.open;
    if (aside > 0) this.#log.error({ ...where, rows: aside }, 'rows are set aside: see `waltide dead-letter list`');
    const nulled = this.#nulled - before.nulled;
    if (nulled > 0) this.#log.warn({ ...where, values: nulled }, 'values are stored as NULL that do not fit');
    return rest;
  }

  /** A table that was not followed is filled from `begin` on: what it lacked before no longer matters. */
  async forget(relation: Relation, begin: Position): Promise<void> {
    this.#letters.resolve(relation, begin);
    await this.#letters.flush(relation);
  }

  #look(event: ChangeEvent, check: RowCheck, relation: Relation): Looked {
    let { before, after } = event;
    let old = this.#misfits(before, check);
    if (this.#mends(old, relation)) {
      before = withNulls(before!, columnsOf(old));
      old = [];
    }
    // Values that the new row leaves out are the old one's.
    const inherited = old.filter(({ column }) => after?.isUnchanged(column));
    let misfits = [...this.#misfits(after, check), ...inherited];
    if (this.#mends(misfits, relation)) {
      after = withNulls(after!, columnsOf(misfits));
      this.#nulled += misfits.length;
      misfits = [];
    }
    const [first] = misfits;
    // What names a row is enough of an old one, and of one that goes.
    if (before && relation.key.length > 0) before = withNulls(before, besides(relation, old));
    return {
      event: replaced(event, event.op, before, after),
      name: after && relation.key.length > 0 ? withNulls(after, besides(relation, misfits)) : after,
      beforeFits: !old.some(({ column }) => names(relation, column)),
      afterFits: !misfits.some(({ column }) => names(relation, column)),
      reason: first ? `column "${relation.columns[first.column]!.name}": ${first.reason}` : null,
    };
  }

  /** Under text a column becomes text; what is left is what not even text holds. */
  #misfits(row: Row | null, check: RowCheck): Misfit[] {
    const found = row ? check.misfits(row) : [];
    return this.#policy === 'text' ? found.filter(({ fitsText }) => !fitsText) : found;
  }

  /** True where NULL takes the place of them. A key cannot be NULL. */
  #mends(misfits: readonly Misfit[], relation: Relation): boolean {
    return (
      this.#policy === 'null' && misfits.length > 0 && !misfits.some(({ column }) => relation.key.includes(column))
    );
  }

  #left({ event, beforeFits, afterFits, name, reason }: Looked, records: boolean): ChangeEvent | null {
    const { op, before, after } = event;
    const relation = event.relation!;
    if (op === 't') {
      if (records) this.#letters.resolve(relation, event.position);
      return event;
    }
    if (op === 'm') return event;
    const old = before ?? after!;
    const wasAside = this.#letters.isOpen(relation, rowName(relation, old));
    if (!this.#takesRetry(event, wasAside)) return null;
    if (op === 'd') {
      if (records) this.#letters.resolve(relation, event.position, rowName(relation, old));
      return beforeFits ? event : null;
    }
    const lacks = op === 'u' && (wasAside || !beforeFits) && lacksValues(event);
    const why = reason ?? (lacks ? 'it leaves out unchanged values of a row that is set aside' : null);
    // A forced one: what came after it is in the table, and stays.
    if (why !== null && !wasAside && retryOf(event)) throw refusedAgain(relation, why);
    if (records && (wasAside || why !== null)) {
      // Of a letter that is retried, whoever does so tells the store.
      const position = retryOf(event) ? null : event.position;
      this.#letters.resolve(relation, position, rowName(relation, old), why !== null);
      if (why !== null) this.#letters.add(event, rowName(relation, after!), why);
      else this.#letters.resolve(relation, position, rowName(relation, after!));
    }
    if (why === null) return beforeFits ? event : replaced(event, 'c', null, after);
    // What is stored of it goes.
    if (before) return beforeFits ? replaced(event, 'd', before, null) : null;
    return afterFits ? replaced(event, 'd', name, null) : null;
  }

  /** A letter that is retried once more after a crash, or after its row came whole, changes nothing. */
  #takesRetry(event: ChangeEvent, wasAside: boolean): boolean {
    const retry = retryOf(event);
    if (!retry || retry.forced || this.#retried.has(event)) return true;
    if (wasAside) this.#retried.add(event);
    return wasAside;
  }
}

function refusedAgain(relation: Relation, why: string): WaltideError {
  const help = 'The row stays as it is in the sink, where a later change of it was applied.';
  return new WaltideError('SINK_REJECTED', `${relationName(relation)}, ${why}`, help);
}

/** True for a column that tells rows apart. */
function names(relation: Relation, column: number): boolean {
  return relation.key.length === 0 || relation.key.includes(column);
}

/** Those of the misfits that do not name a row. */
function besides(relation: Relation, misfits: readonly Misfit[]): number[] {
  return columnsOf(misfits).filter((column) => !relation.key.includes(column));
}

const columnsOf = (misfits: readonly Misfit[]): number[] => misfits.map(({ column }) => column);

function replaced(event: ChangeEvent, op: Op, before: Row | null, after: Row | null): ChangeEvent {
  if (op === event.op && before === event.before && after === event.after) return event;
  const { transaction, seq, tableSeq, lsn, relation, message } = event;
  return new ChangeEvent(op, transaction, seq, tableSeq, lsn, relation, before, after, message);
}
