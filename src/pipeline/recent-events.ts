import { ChangeEvent } from '../event/change-event.ts';
import { countRows } from '../event/copied-rows.ts';
import { formatJson } from '../event/plain-json.ts';
import { relationName } from '../event/relation.ts';
import { copyRow, tupleEnd } from '../event/row.ts';

/** How many are kept. */
export const RECENT_MAX = 1000;
/** A microsecond each: at full speed no more than a thousandth of the time goes into being looked at. */
const PER_SECOND_MAX = 1000;
/** A longer row is told of, and not kept. */
const ROW_BYTES_MAX = 8192;

/** A change that went by. It holds no bytes of the batch that it came with. */
export interface SeenEvent {
  /** Counts the changes that went by since the process started: a gap is what was not kept. */
  readonly number: number;
  readonly table: string;
  /** See formatJson. Null where its rows are too long to be kept. */
  readonly json: string | null;
  readonly op: ChangeEvent['op'];
  readonly lsn: ChangeEvent['transaction']['commitLsn'];
  readonly seq: number;
  readonly committedAt: Date;
}

/** The last changes that were published, for people who want to see that something flows. Bounded in memory and in time. */
export class RecentEvents {
  readonly #ring: SeenEvent[] = [];
  readonly #listeners = new Set<(event: SeenEvent) => void>();
  #count = 0;
  #second = 0;
  #left = 0;

  /** How many changes went by, kept or not. */
  get count(): number {
    return this.#count;
  }

  /** Called with every batch, whether anybody looks or not. */
  note(events: readonly ChangeEvent[]): void {
    const second = Math.floor(Date.now() / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#left = PER_SECOND_MAX;
    }
    let i = 0;
    for (; i < events.length && this.#left > 0; i++) {
      const event = events[i]!;
      this.#count += countRows([event]);
      if (!isShown(event)) continue;
      this.#left--;
      this.#keep(seen(event, this.#count));
    }
    if (i < events.length) this.#count += countRows(i === 0 ? events : events.slice(i));
  }

  /** Newest first. */
  last(limit: number, table: string | null): readonly SeenEvent[] {
    const kept = table === null ? this.#ring : this.#ring.filter((event) => event.table === table);
    return kept.slice(-limit).reverse();
  }

  /** Oldest first, those after `number`. */
  since(number: number): readonly SeenEvent[] {
    return this.#ring.filter((event) => event.number > number);
  }

  /** Calls `listener`, which must not throw, with each that comes. The result ends it. */
  listen(listener: (event: SeenEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #keep(event: SeenEvent): void {
    this.#ring.push(event);
    if (this.#ring.length > RECENT_MAX) this.#ring.shift();
    for (const listener of this.#listeners) listener(event);
  }
}

/** Rows that COPY sent come by the thousand, and messages are for machines. */
function isShown({ op, relation, before, after }: ChangeEvent): boolean {
  return op !== 'm' && relation !== null && (op === 't' || before !== null || after !== null);
}

function seen(event: ChangeEvent, number: number): SeenEvent {
  const { op, transaction, seq, tableSeq, lsn, relation, before, after } = event;
  const bytes = [before, after].reduce((sum, row) => sum + (row ? tupleEnd(row) - row.at : 0), 0);
  const copied = (row: typeof after) => row && copyRow(row);
  const kept =
    bytes > ROW_BYTES_MAX
      ? null
      : new ChangeEvent(op, transaction, seq, tableSeq, lsn, relation, copied(before), copied(after));
  return {
    number,
    table: relationName(relation!),
    // Nearly all are gone before anybody looks at them.
    get json() {
      return kept && formatJson(kept);
    },
    op,
    lsn: transaction.commitLsn,
    seq,
    committedAt: new Date(Number(transaction.commitTimeUs / 1000n)),
  };
}
