import { type ChangeEvent, SCHEMA_MESSAGE, snapshotPhase, type Transaction } from '../../event/change-event.ts';
import { CopyEvent } from '../../event/copied-rows.ts';
import type { Position } from '../../event/position.ts';
import type { Relation } from '../../event/relation.ts';
import type { Stored } from '../compact.ts';
import { sameShape } from './schema.ts';
import type { SinkTable, TableShape } from './state.ts';

/** Events of one table, in order, that one relation shape describes, and what the rows they meet are. */
export interface Run {
  readonly relation: Relation;
  readonly stored: Stored;
  /** All events are copied rows of this piece of a snapshot, each with a key of its own; null for any other events. */
  readonly copy: Transaction | null;
  readonly events: ChangeEvent[];
}

/** One table of the file: what it is before the delivery, and what comes to it. */
export class Building {
  /** What the table is by now, under the name of the live one or of the shadow; null for one to be made. */
  readonly from: TableShape | null;
  readonly at: 'live' | 'shadow' | null;
  /** Id of the snapshot that fills it, or filled it; null for one that none has. */
  readonly snapshot: string | null;
  readonly runs: Run[] = [];
  stored: Stored;
  /** Where its snapshot begins, if it does so here. */
  begin: Position | null = null;

  constructor(from: TableShape | null, at: 'live' | 'shadow' | null, snapshot: string | null, stored: Stored) {
    this.from = from;
    this.at = at;
    this.snapshot = snapshot;
    this.stored = stored;
  }

  add(event: ChangeEvent): void {
    this.#run(event.relation!, event instanceof CopyEvent ? event.transaction : null).events.push(event);
  }

  /** The table has this shape from here on, though no row says so. */
  shape(relation: Relation): void {
    this.#run(relation);
  }

  #run(relation: Relation, copy: Transaction | null = null): Run {
    const last = this.runs.at(-1);
    if (
      last &&
      last.copy === copy &&
      last.stored === this.stored &&
      (last.relation === relation || sameShape(last.relation, relation))
    )
      return last;
    const run: Run = { relation, stored: this.stored, copy, events: [] };
    this.runs.push(run);
    return run;
  }
}

/** True for a table that was dropped: the source has another of its name. */
function isAnother(shape: TableShape | null, { oid }: Relation): boolean {
  return shape !== null && shape.relation.oid !== 0 && oid !== 0 && shape.relation.oid !== oid;
}

/**
 * What the events of one source table do to its tables in the file. Changes go to the live table and to the shadow that
 * a snapshot is filling; rows of the snapshot go to the shadow alone; at its end the shadow is the live table. Pure.
 */
export class TablePlan {
  readonly before: SinkTable;
  stopped: string | null;
  /** Null where there is none, or one that is not followed. */
  live: Building | null;
  shadow: Building | null;
  /** Events of a table that is not followed. */
  leftOut = 0;

  constructor(relation: Relation, before: SinkTable | undefined, stored: Stored = 'exact') {
    const { schema, table } = relation;
    this.before = before ?? { schema, table, live: null, stopped: null, shadow: null };
    const { live, shadow, stopped } = this.before;
    this.stopped = stopped;
    const replaced = shadow?.relation.oid === relation.oid && isAnother(live, relation);
    this.live = live && stopped === null && !replaced ? new Building(live, 'live', null, stored) : null;
    this.shadow = shadow && new Building(shadow, 'shadow', shadow.snapshot, 'partial');
  }

  add(event: ChangeEvent): void {
    const { snapshot } = event.transaction;
    if (event.op === 'm') this.#message(event);
    else if (snapshot === null || snapshot.kind === 'partial') this.#change(event);
    else if (event.op === 't') {
      this.shadow = new Building(null, null, snapshot.id, 'partial');
      this.shadow.begin = event.position;
      this.shadow.shape(event.relation!);
      if (isAnother(this.live?.from ?? null, event.relation!)) this.live = null;
    } else if (this.shadow?.snapshot === snapshot.id) this.shadow.add(event);
    else this.leftOut++;
  }

  #change(event: ChangeEvent): void {
    // Whoever gives changes of a table that is not known here wants it to exist.
    if (!this.live && !this.shadow && this.before.live === null && this.stopped === null)
      this.live = new Building(null, null, null, 'exact');
    this.live?.add(event);
    this.shadow?.add(event);
    if (!this.live && !this.shadow) this.leftOut++;
  }

  #message(event: ChangeEvent): void {
    const phase = snapshotPhase(event);
    if (phase !== null) {
      if (this.shadow?.snapshot !== event.transaction.snapshot!.id) return;
      if (phase === 'completed') {
        this.shadow.stored = 'exact';
        this.live = this.shadow;
        this.stopped = null;
      }
      this.shadow = null;
    } else if (event.message!.prefix === SCHEMA_MESSAGE) {
      this.live?.shape(event.relation!);
      this.shadow?.shape(event.relation!);
    }
  }
}
