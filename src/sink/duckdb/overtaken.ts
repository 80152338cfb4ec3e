import { setImmediate } from 'node:timers/promises';
import { type ChangeEvent, lacksValues } from '../../event/change-event.ts';
import type { CopiedRows } from '../../event/copied-rows.ts';
import type { Relation } from '../../event/relation.ts';
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
  readonly #keys = new Set<string>();
  readonly #places = new Map<string, { readonly block: number; readonly i: number }>();

  constructor(relation: Relation, keysMax: number) {
    this.#relation = relation;
    this.#keysMax = keysMax;
  }

  /**
   * True where the events do no more to the table than change whole rows; their keys are noted then. False where the chunk's rows
   * must be there first: for values that an update leaves out, for what changes the table, or for too many keys.
   */
  passes(events: readonly ChangeEvent[]): boolean {
    const keys: string[] = [];
    for (const event of events) {
      if (event.relation === null || !this.#concerns(event.relation)) continue;
      if (!this.#changesWholeRows(event)) return false;
      for (const row of [event.before, event.after]) if (row) keys.push(this.#keyOf((column) => row.text(column)));
    }
    // Bytes that are no text may look alike as text, and the row of another key would go.
    if (keys.some((key) => key.includes('\ufffd'))) return false;
    if (this.#keys.size + keys.length > this.#keysMax) return false;
    for (const key of keys) this.#keys.add(key);
    return true;
  }

  /** Notes where the chunk's rows are. Before `gone` and `kept`. */
  async index(chunk: readonly CopiedRows[]): Promise<void> {
    for (const [block, rows] of chunk.entries()) {
      for (let i = 0; i < rows.count; i++) {
        if (i % ROWS_PER_TURN === ROWS_PER_TURN - 1) await setImmediate();
        this.#places.set(
          this.#keyOf((column) => rows.text(i, column)),
          { block, i },
        );
      }
    }
  }

  /** The chunk's rows whose keys were changed. */
  gone(chunk: readonly CopiedRows[]): CopiedRows[] {
    return this.#goneByBlock(chunk).flatMap((indexes, block) => {
      const rows = chunk[block]!;
      return indexes.size === 0 ? [] : [rows.select([...indexes], rows.relation)];
    });
  }

  /** The others, block by block; null for a block that has none. */
  kept(chunk: readonly CopiedRows[]): (CopiedRows | null)[] {
    return this.#goneByBlock(chunk).map((gone, block) => {
      const rows = chunk[block]!;
      if (gone.size === 0) return rows;
      const indexes = Array.from(rows.starts, (_, i) => i).filter((i) => !gone.has(i));
      return indexes.length === 0 ? null : rows.select(indexes, rows.relation);
    });
  }

  #goneByBlock(chunk: readonly CopiedRows[]): Set<number>[] {
    const gone = chunk.map(() => new Set<number>());
    for (const key of this.#keys) {
      const place = this.#places.get(key);
      if (place) gone[place.block]!.add(place.i);
    }
    return gone;
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
}
