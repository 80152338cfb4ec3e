import { setImmediate } from 'node:timers/promises';
import { type ChangeEvent, lacksValues } from '../../event/change-event.ts';
import type { CopiedRows } from '../../event/copied-rows.ts';
import type { Relation } from '../../event/relation.ts';
import { encodeTuple, Row } from '../../event/row.ts';
import { sameShape } from './schema.ts';

/** Rows looked at before other work of the process gets its turn: about 1 ms. */
const ROWS_PER_TURN = 4096;

/**
 * The keys of a table that were changed after a chunk of it was read, and before its rows are in the table. Whoever changes a
 * row brings all of it, or takes it away, so that of the chunk's row nothing is wanted any more. Pure.
 */
export class Overtaken {
  readonly #relation: Relation;
  readonly #keysMax: number;
  readonly #changed = new Map<string, Row>();

  constructor(relation: Relation, keysMax: number) {
    this.#relation = relation;
    this.#keysMax = keysMax;
  }

  /**
   * True where the events do no more to the table than change whole rows; their keys are noted then. False where the chunk's rows
   * must be there first: for values that an update leaves out, for what changes the table, or for too many keys.
   */
  passes(events: readonly ChangeEvent[]): boolean {
    const rows = new Map<string, Row>();
    for (const event of events) {
      if (event.relation === null || !this.#concerns(event.relation)) continue;
      if (!this.#changesWholeRows(event)) return false;
      for (const row of [event.before, event.after])
        if (row)
          rows.set(
            this.#keyOf((column) => row.text(column)),
            row,
          );
    }
    // Bytes that are no text may look alike as text, and the row of another key would stay.
    for (const key of rows.keys()) if (key.includes('\ufffd')) return false;
    if (this.#changed.size + rows.size > this.#keysMax) return false;
    for (const [key, row] of rows) if (!this.#changed.has(key)) this.#changed.set(key, this.#keyOnly(row));
    return true;
  }

  /** Rows, with nothing but a key that counts, of what was changed; each key once. */
  get changed(): readonly Row[] {
    return [...this.#changed.values()];
  }

  /** Those of the chunk's rows whose keys were not changed, block by block; null for a block that has none. */
  async kept(chunk: readonly CopiedRows[]): Promise<(CopiedRows | null)[]> {
    if (this.#changed.size === 0) return [...chunk];
    const kept: (CopiedRows | null)[] = [];
    for (const rows of chunk) {
      const stay: number[] = [];
      for (let i = 0; i < rows.count; i++) {
        if (i % ROWS_PER_TURN === ROWS_PER_TURN - 1) await setImmediate();
        if (!this.#changed.has(this.#keyOf((column) => rows.text(i, column)))) stay.push(i);
      }
      if (stay.length === rows.count) kept.push(rows);
      else kept.push(stay.length === 0 ? null : rows.select(stay, rows.relation));
    }
    return kept;
  }

  /** Also of a table that took its name, or that it had once. */
  #concerns({ oid, schema, table }: Relation): boolean {
    const { oid: ours, schema: ourSchema, table: ourTable } = this.#relation;
    return oid === ours || (schema === ourSchema && table === ourTable);
  }

  #changesWholeRows(event: ChangeEvent): boolean {
    const { op, transaction, relation } = event;
    const { schema, table } = this.#relation;
    if (transaction.snapshot !== null || relation!.schema !== schema || relation!.table !== table) return false;
    if (!sameShape(relation!, this.#relation)) return false;
    return op === 'c' || op === 'd' || (op === 'u' && !lacksValues(event));
  }

  /** By text, as the compaction of changes knows rows, with lengths so that no two keys are one. */
  #keyOf(text: (column: number) => string | null | undefined): string {
    const { key } = this.#relation;
    if (key.length === 1) return text(key[0]!) ?? '';
    return key.map((column) => text(column) ?? '').reduce((all, part) => `${all}${part.length}:${part}`, '');
  }

  /** Of its own bytes: the row's are those of a whole batch. */
  #keyOnly(row: Row): Row {
    const { key } = this.#relation;
    const values = this.#relation.columns.map((_, column) => (key.includes(column) ? row.text(column) : null));
    return new Row(this.#relation, encodeTuple(values), 0);
  }
}
