import type { ChangeEvent } from '../event/change-event.ts';
import { CopyEvent } from '../event/copied-rows.ts';
import { type Relation, relationName } from '../event/relation.ts';
import type { AppliedTable } from './apply-status.ts';

/** The key of messages that are about no table. */
const MESSAGES = 0;

interface Counted {
  name: string;
  events: number;
  committedAtUs: bigint | null;
}

/** What was applied of each table, by OID: a renamed table goes on under its new name, and one that is gone is forgotten. */
export class AppliedTables {
  readonly #counted = new Map<number, Counted>();
  readonly #relations = new Map<number, Relation>();

  /** The table as its last change described it; null where none came by. */
  relationOf(oid: number): Relation | null {
    return this.#relations.get(oid) ?? null;
  }

  get status(): readonly AppliedTable[] {
    return [...this.#counted.values()].map(({ name, events, committedAtUs }) => ({
      name,
      events,
      committedAtMs: committedAtUs === null ? null : Number(committedAtUs / 1000n),
    }));
  }

  forget(oid: number): void {
    this.#counted.delete(oid);
    this.#relations.delete(oid);
  }

  /** Returns how many rows they are. */
  count(events: readonly ChangeEvent[]): number {
    let total = 0;
    let relation: ChangeEvent['relation'] = null;
    let run = 0;
    for (let i = 0; i < events.length; i++) {
      const event = events[i]!;
      if (event.relation !== relation) {
        if (run > 0) this.#add(relation, run, events[i - 1]!);
        total += run;
        run = 0;
        relation = event.relation;
      }
      run += event instanceof CopyEvent ? event.copied.count : 1;
    }
    if (run > 0) this.#add(relation, run, events.at(-1)!);
    return total + run;
  }

  #add(relation: Relation | null, rows: number, { transaction }: ChangeEvent): void {
    const oid = relation?.oid ?? MESSAGES;
    const counted = this.#counted.get(oid) ?? { name: '', events: 0, committedAtUs: null };
    counted.events += rows;
    if (transaction.snapshot === null) counted.committedAtUs = transaction.commitTimeUs;
    if (relation === null) counted.name = '(messages)';
    else if (this.#relations.get(oid) !== relation) {
      this.#relations.set(oid, relation);
      counted.name = relationName(relation);
      // Another table may have had the name: it is gone, or was renamed without a change since.
      for (const [other, { name }] of this.#counted)
        if (other !== oid && name === counted.name) this.#counted.delete(other);
    }
    this.#counted.set(oid, counted);
  }
}
