import { isUtf8 } from 'node:buffer';
import duckdb, { type Connection } from '@duckdb/node-bindings';
import { RejectedError } from '../../errors.ts';
import type { ChangeEvent } from '../../event/change-event.ts';
import { formatLsn } from '../../event/lsn.ts';
import { type Relation, relationName } from '../../event/relation.ts';
import type { Row } from '../../event/row.ts';
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

/** Past this many open letters the table is set aside as a whole: then it is not single rows that do not fit. */
const OPEN_MAX = 10_000;

/** What names a row of the table: the texts of its key, or of all columns where there is none. */
export function rowName(relation: Relation, row: Row): string {
  const columns = relation.key.length > 0 ? relation.key : relation.columns.map((_, index) => index);
  return JSON.stringify(columns.map((column) => row.text(column) ?? null));
}

interface Letter {
  readonly event: ChangeEvent;
  readonly reason: string;
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
 * Changes that were set aside, in the sink's own file and in the transaction that passes them. What is read back at
 * `begin` is what was committed, so that a failed transaction needs no undoing here.
 */
export class DeadLetters {
  readonly #connection: Connection;
  #boxes = new Map<string, Box>();
  #changed = true;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Before anything else of a transaction. */
  async begin(): Promise<void> {
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
    if (box.open.size >= OPEN_MAX) {
      const message = `${schema}.${table}: ${OPEN_MAX} rows are set aside already, and one more does not fit: ${reason}`;
      throw new RejectedError(schema, table, message);
    }
    this.#changed = true;
    box.open.add(name);
    box.added.set(name, [...(box.added.get(name) ?? []), { event, reason, resolved: false }]);
  }

  /** The row is whole again or gone; without a name, all rows of the table. */
  resolve(relation: Relation, name?: string): void {
    if (!this.isOpen(relation, name)) return;
    this.#changed = true;
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
    const letters = [...added].flatMap(([name, list]) => list.map((letter) => letterSql(name, letter)));
    for (const some of parts(letters))
      await duckdb.query(this.#connection, `INSERT INTO ${TABLE} VALUES ${some.join(', ')}`);
    added.clear();
    resolved.clear();
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

function letterSql(name: string, { event, reason, resolved }: Letter): string {
  const { schema, table } = event.relation!;
  const texts = [schema, table, name, formatLsn(event.transaction.commitLsn)].map(quoteText);
  const values = [event.seq, quoteText(event.op), json(event.before), json(event.after), quoteText(reason)];
  return `(${[...texts, ...values].join(', ')}, now(), ${resolved ? 'now()' : 'NULL'})`;
}

/** A longer value is named by its length: as a JavaScript string it might not exist. */
const TEXT_BYTES_MAX = 64 << 20;

/** The texts of a row by column; unchanged values are left out, and bytes that are no text are in hex. */
function json(row: Row | null): string {
  if (!row) return 'NULL';
  const entries = row.relation.columns.flatMap(({ name }, column): [string, unknown][] => {
    if (row.isUnchanged(column)) return [];
    if (row.isNull(column)) return [[name, null]];
    const bytes = row.bytes.subarray(row.starts()[column]! + 5, row.starts()[column + 1]!);
    if (bytes.length > TEXT_BYTES_MAX) return [[name, { bytes: bytes.length }]];
    return [[name, isUtf8(bytes) ? bytes.toString() : { hex: bytes.toString('hex') }]];
  });
  return quoteText(JSON.stringify(Object.fromEntries(entries)));
}
