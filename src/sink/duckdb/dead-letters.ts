import duckdb, { type Connection } from '@duckdb/node-bindings';
import { type Letters, letterOf, type NewLetter, type Settled } from '../../dead-letter/dead-letter.ts';
import { RejectedError } from '../../errors.ts';
import type { ChangeEvent } from '../../event/change-event.ts';
import { formatLsn } from '../../event/lsn.ts';
import type { Position } from '../../event/position.ts';
import { type Relation, relationName } from '../../event/relation.ts';
import { BOOKKEEPING, quoteText } from './names.ts';
import { readRows } from './state.ts';

const TABLE = `${BOOKKEEPING}.dead_letters`;

/**
 * One row per change that was set aside. `resolved_at` is set once the row is in the table again, or was deleted in the
 * source: what is open is what the tables lack.
 */
const CREATE = `
CREATE TABLE IF NOT EXISTS ${TABLE} (schema_name VARCHAR NOT NULL, table_name VARCHAR NOT NULL, "key" VARCHAR NOT NULL,
  commit_lsn VARCHAR NOT NULL, seq BIGINT NOT NULL, op VARCHAR NOT NULL, "before" JSON, "after" JSON, reason VARCHAR NOT NULL,
  "at" TIMESTAMPTZ NOT NULL, resolved_at TIMESTAMPTZ)`;

/** Where nobody has said how many rows of a table may be open: past this many it is set aside as a whole. */
const OPEN_MAX = 10_000;
/** Letters that wait for the end of the transaction, in bytes of their rows: with more they are saved at once. */
const UNSAVED_BYTES_MAX = 8 << 20;

interface Letter extends NewLetter {
  resolved: boolean;
}

/** Letters of one table. */
interface Box {
  /** Names of rows whose letters are open. */
  readonly open: Set<string>;
  /** What `flush` writes. */
  readonly added: Map<string, Letter[]>;
  readonly resolved: Set<string>;
}

/** Letters in one statement. */
const STATEMENT_MAX = 500;

/**
 * Changes that were set aside. Which rows the tables lack is in the sink's own file, in the transaction that passes the
 * changes: what is read back at `begin` is what was committed, so that a failed transaction needs no undoing here. The same
 * letters are in `store` before that transaction is committed, for people to look at and to retry.
 */
export class DeadLetters {
  readonly #connection: Connection;
  readonly #store: Letters | null;
  #boxes = new Map<string, Box>();
  #changed = true;
  #unsaved: NewLetter[] = [];
  #settled: Settled[] = [];
  #unsavedBytes = 0;

  constructor(connection: Connection, store: Letters | null) {
    this.#connection = connection;
    this.#store = store;
  }

  /** Before anything else of a transaction. */
  async begin(): Promise<void> {
    this.#forgetUnsaved();
    if (!this.#changed) return;
    await duckdb.query(this.#connection, CREATE);
    this.#boxes = new Map();
    const sql = `SELECT DISTINCT schema_name, table_name, "key" FROM ${TABLE} WHERE resolved_at IS NULL`;
    for (const [schema, table, name] of (await readRows(this.#connection, sql)) as [string, string, string][])
      this.#box({ schema, table }).open.add(name);
    this.#changed = false;
  }

  /** Rows that are open, over all tables. */
  get open(): number {
    let sum = 0;
    for (const box of this.#boxes.values()) sum += box.open.size;
    return sum;
  }

  isOpen(relation: Relation, name?: string): boolean {
    const box = this.#boxes.get(relationName(relation));
    return box !== undefined && (name === undefined ? box.open.size > 0 : box.open.has(name));
  }

  /** Throws a RejectedError where too many are open. */
  add(event: ChangeEvent, name: string, reason: string): void {
    const { schema, table } = event.relation!;
    const box = this.#box(event.relation!);
    const max = this.#store?.perTableMax ?? OPEN_MAX;
    if (box.open.size >= max) {
      const message = `${schema}.${table}: ${max} rows are set aside already, and one more does not fit: ${reason}`;
      throw new RejectedError(schema, table, message);
    }
    this.#changed = true;
    box.open.add(name);
    const letter = letterOf(event, name, reason);
    box.added.set(name, [...(box.added.get(name) ?? []), { ...letter, resolved: false }]);
    if (!this.#store) return;
    this.#unsaved.push(letter);
    this.#unsavedBytes += (letter.before?.length ?? 0) + (letter.after?.length ?? 0);
  }

  /**
   * The row is whole again, gone, or (`refused`) set aside once more by what is at `position`, if that is for the store to
   * know; without a name, all rows of the table.
   */
  resolve(relation: Relation, position: Position | null, name?: string, refused = false): void {
    if (!this.isOpen(relation, name)) return;
    this.#changed = true;
    if (position) this.#settled.push({ table: relation.oid, row: name ?? null, position, refused });
    const box = this.#box(relation);
    for (const each of name === undefined ? [...box.open] : [name]) {
      box.open.delete(each);
      box.resolved.add(each);
      for (const letter of box.added.get(each) ?? []) letter.resolved = true;
    }
  }

  /** Writes what was added and resolved since, for one table. */
  async flush(relation: Relation): Promise<void> {
    const { added, resolved } = this.#box(relation);
    const { schema, table } = relation;
    if (added.size + resolved.size === 0) return;
    await duckdb.query(this.#connection, CREATE);
    for (const names of parts([...resolved])) {
      await duckdb.query(
        this.#connection,
        `UPDATE ${TABLE} SET resolved_at = now() WHERE resolved_at IS NULL AND schema_name = ${quoteText(schema)}
           AND table_name = ${quoteText(table)} AND "key" IN (${names.map(quoteText).join(', ')})`,
      );
    }
    const letters = [...added.values()].flatMap((list) => list.map(letterSql));
    for (const some of parts(letters))
      await duckdb.query(this.#connection, `INSERT INTO ${TABLE} VALUES ${some.join(', ')}`);
    added.clear();
    resolved.clear();
    if (this.#unsavedBytes > UNSAVED_BYTES_MAX) await this.save();
  }

  /** Before the transaction is committed. Letters of one that then fails come again with its changes. */
  async save(): Promise<void> {
    await this.#store?.save(this.#unsaved, this.#settled);
    this.#forgetUnsaved();
  }

  #forgetUnsaved(): void {
    this.#unsaved = [];
    this.#settled = [];
    this.#unsavedBytes = 0;
  }

  #box(table: { readonly schema: string; readonly table: string }): Box {
    const name = relationName(table);
    const box = this.#boxes.get(name) ?? { open: new Set(), added: new Map(), resolved: new Set() };
    this.#boxes.set(name, box);
    return box;
  }
}

function* parts<T>(all: readonly T[]): Iterable<readonly T[]> {
  for (let i = 0; i < all.length; i += STATEMENT_MAX) yield all.slice(i, i + STATEMENT_MAX);
}

function letterSql({ relation, row, position, op, before, after, reason, resolved }: Letter): string {
  const { schema, table } = relation;
  const texts = [schema, table, row, formatLsn(position.commitLsn)].map(quoteText);
  const json = (text: string | null): string => (text === null ? 'NULL' : quoteText(text));
  const values = [position.seq, quoteText(op), json(before), json(after), quoteText(reason)];
  return `(${[...texts, ...values].join(', ')}, now(), ${resolved ? 'now()' : 'NULL'})`;
}
