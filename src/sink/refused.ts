import { type Letters, letterOf, type NewLetter, retryOf, type Settled } from '../dead-letter/dead-letter.ts';
import { RejectedError, WaltideError } from '../errors.ts';
import { ChangeEvent, lacksValues } from '../event/change-event.ts';
import { comparePosition, type Position, START } from '../event/position.ts';
import { relationName } from '../event/relation.ts';
import { rowName } from '../event/row-text.ts';

/**
 * Rows of which a sink refused a change, for a sink that does not set them aside itself. Until a change brings such a row
 * whole again, or deletes it, the sink has nothing of it, or what it had before; so a change that leaves out unchanged
 * values is set aside, too: the sink would complete it with values that are not the source's.
 */
export class Refused {
  readonly #letters: Letters;
  /** By the OID of the table, names of rows with the position of what was refused: changes before it are none of its matter. */
  readonly #open = new Map<number, Map<string, Position>>();

  private constructor(letters: Letters) {
    this.#letters = letters;
  }

  static async load(letters: Letters): Promise<Refused> {
    const refused = new Refused(letters);
    for (const { table, row } of await letters.open()) refused.#rows(table).set(row, START);
    return refused;
  }

  /** The events for the sink. What they settle, and what is set aside of them, is durable then. */
  async sift(events: readonly ChangeEvent[]): Promise<readonly ChangeEvent[]> {
    if (this.#open.size === 0) return events;
    const aside: NewLetter[] = [];
    const settled: Settled[] = [];
    const left: ChangeEvent[] = [];
    for (const event of events) {
      const open = event.relation ? this.#open.get(event.relation.oid) : undefined;
      const lacking = open && open.size > 0 && !retryOf(event) ? this.#meet(event, open, settled) : false;
      if (!lacking) left.push(event);
      else {
        const {
          letter,
          rest,
          settled: old,
        } = this.#letter(event, 'it leaves out unchanged values of a row that is set aside');
        aside.push(letter);
        settled.push(...old);
        if (rest) left.push(rest);
      }
    }
    await this.#letters.save(aside, settled);
    return left;
  }

  /**
   * Sets one event aside. Resolves with what is left of it for the sink: of a changed key, that the old row goes. Throws a
   * RejectedError where too many rows of the table are open, or the event is about no row.
   */
  async refuse(event: ChangeEvent, reason: string): Promise<ChangeEvent | null> {
    const { relation, op } = event;
    if (!relation)
      throw new WaltideError('SINK_REJECTED', `${event}: ${reason}`, 'Let the sink pass over such messages.');
    if (op === 't' || op === 'm')
      throw new RejectedError(relation.schema, relation.table, `${event} was refused: ${reason}`);
    const { perTableMax } = this.#letters;
    const row = rowName(relation, (event.after ?? event.before)!);
    const open = this.#rows(relation.oid);
    if (open.size >= perTableMax && !open.has(row)) {
      const message = `${relationName(relation)}: ${perTableMax} rows are set aside already, and one more is refused: ${reason}`;
      throw new RejectedError(relation.schema, relation.table, message);
    }
    const { letter, rest, settled } = this.#letter(event, reason);
    await this.#letters.save([letter], settled);
    return rest;
  }

  /** A letter was retried, and its row is in the sink. */
  retried(table: number, row: string): void {
    this.#open.get(table)?.delete(row);
  }

  /** True where the event must be set aside like the row's change before it. Else it settles that. */
  #meet(event: ChangeEvent, open: Map<string, Position>, settled: Settled[]): boolean {
    const { op, relation, before, after, position, transaction } = event;
    const table = relation!.oid;
    const isOpen = (row: string): boolean => {
      const since = open.get(row);
      return since !== undefined && comparePosition(since, position) < 0;
    };
    if (op === 'm') return false;
    if (op === 't') {
      if (transaction.snapshot?.kind === 'partial') return false;
      for (const row of open.keys()) if (isOpen(row)) open.delete(row);
      settled.push({ table, row: null, position, refused: false });
      return false;
    }
    const old = rowName(relation!, (before ?? after)!);
    if (op === 'u' && isOpen(old) && lacksValues(event)) return true;
    for (const row of after ? [old, rowName(relation!, after)] : [old]) {
      if (!isOpen(row)) continue;
      open.delete(row);
      settled.push({ table, row, position, refused: false });
    }
    return false;
  }

  #letter(event: ChangeEvent, reason: string): { letter: NewLetter; rest: ChangeEvent | null; settled: Settled[] } {
    const { op, transaction, seq, tableSeq, lsn, relation, before, after, position } = event;
    const table = relation!.oid;
    const row = rowName(relation!, (after ?? before)!);
    const old = op === 'u' && before ? rowName(relation!, before) : row;
    const rows = this.#rows(table);
    const settled: Settled[] = [];
    for (const name of new Set([old, row]))
      if (rows.delete(name)) settled.push({ table, row: name, position, refused: true });
    rows.set(row, position);
    const rest = old !== row ? new ChangeEvent('d', transaction, seq, tableSeq, lsn, relation, before, null) : null;
    return { letter: letterOf(event, row, reason), rest, settled };
  }

  #rows(table: number): Map<string, Position> {
    const rows = this.#open.get(table) ?? new Map<string, Position>();
    this.#open.set(table, rows);
    return rows;
  }
}
