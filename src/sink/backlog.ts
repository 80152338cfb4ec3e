import type { ChangeEvent } from '../event/change-event.ts';
import type { Lsn } from '../event/lsn.ts';
import { relationName } from '../event/relation.ts';

/** The oldest change of a table that its sink lacks, by its commit. */
export interface OldestChange {
  readonly commitLsn: Lsn;
  /** Unix milliseconds. */
  readonly committedAtMs: number;
}

/** By table. Rows of snapshots are none: they were committed long before anybody asked for them. */
export type Backlog = Map<string, OldestChange>;

/** Adds what `events`, which come after all that is in it, hold of tables that are not in it yet. */
export function noteOldest(backlog: Backlog, events: readonly ChangeEvent[]): void {
  let relation: ChangeEvent['relation'] = null;
  for (const event of events) {
    if (event.relation === relation || event.relation === null || event.transaction.snapshot) continue;
    relation = event.relation;
    const name = relationName(relation);
    if (!backlog.has(name)) backlog.set(name, oldestOf(event));
  }
}

/** The first change that was streamed; null where none was. */
export function firstChange(events: readonly ChangeEvent[]): OldestChange | null {
  const first = events.find(({ transaction }) => transaction.snapshot === null);
  return first ? oldestOf(first) : null;
}

function oldestOf({ transaction: { commitLsn, commitTimeUs } }: ChangeEvent): OldestChange {
  return { commitLsn, committedAtMs: Number(commitTimeUs / 1000n) };
}
