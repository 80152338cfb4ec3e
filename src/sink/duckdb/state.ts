import { DuckDBDataChunk } from '@duckdb/node-api';
import duckdb, { type Connection } from '@duckdb/node-bindings';
import { RejectedError, WaltideError } from '../../errors.ts';
import type { Offset, SourceIdentity } from '../../event/offset.ts';
import { comparePosition, type Position } from '../../event/position.ts';
import { type Relation, tableKey } from '../../event/relation.ts';
import { BOOKKEEPING, quoteText } from './names.ts';
import { type SinkColumn, targetKey } from './schema.ts';

/** What one table of the file is. */
export interface TableShape {
  /** As last applied. */
  readonly relation: Relation;
  readonly columns: readonly SinkColumn[];
}

/** The rows of a snapshot under way, in a table of their own beside the live one. */
export interface Shadow extends TableShape {
  readonly snapshot: string;
}

/** A table of the source as the sink holds it. */
export interface SinkTable {
  readonly schema: string;
  readonly table: string;
  /** Null where Waltide has not created the table: then whatever has its name is somebody else's. */
  readonly live: TableShape | null;
  /** Why the live table is not followed; null where it is. */
  readonly stopped: string | null;
  /**
   * Why it is not followed: refill = a new snapshot mends it and is asked for, dropped = the source has no such table
   * any more. Absent: a person must act.
   */
  readonly because?: 'refill' | 'dropped' | undefined;
  readonly shadow: Shadow | null;
}

const CREATE = `
CREATE SCHEMA IF NOT EXISTS ${BOOKKEEPING};
CREATE TABLE IF NOT EXISTS ${BOOKKEEPING}.identity (system_identifier VARCHAR NOT NULL, timeline UINTEGER NOT NULL,
  slot VARCHAR NOT NULL, "database" VARCHAR NOT NULL, waltide VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS ${BOOKKEEPING}.store (id VARCHAR NOT NULL);
INSERT INTO ${BOOKKEEPING}.store SELECT uuid() WHERE NOT EXISTS (SELECT 1 FROM ${BOOKKEEPING}.store);
CREATE TABLE IF NOT EXISTS ${BOOKKEEPING}.offsets ("partition" VARCHAR PRIMARY KEY, commit_lsn UBIGINT NOT NULL,
  seq BIGINT NOT NULL, "next" BIGINT, updated_at TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS ${BOOKKEEPING}.tables (schema_name VARCHAR, table_name VARCHAR, relation JSON, "columns" JSON,
  state VARCHAR NOT NULL, reason VARCHAR, "at" TIMESTAMPTZ NOT NULL, PRIMARY KEY (schema_name, table_name));
CREATE TABLE IF NOT EXISTS ${BOOKKEEPING}.schema_changes (schema_name VARCHAR NOT NULL, table_name VARCHAR NOT NULL,
  commit_lsn UBIGINT NOT NULL, seq BIGINT NOT NULL, command VARCHAR, applied VARCHAR NOT NULL, "at" TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS ${BOOKKEEPING}.shadows (schema_name VARCHAR, table_name VARCHAR, snapshot VARCHAR NOT NULL,
  relation JSON NOT NULL, "columns" JSON NOT NULL, "at" TIMESTAMPTZ NOT NULL);
`;

/** Every row of a query, as JavaScript values. For bookkeeping: small results. */
export async function readRows(connection: Connection, sql: string): Promise<unknown[][]> {
  const result = await duckdb.query(connection, sql);
  const rows: unknown[][] = [];
  for (let chunk = await duckdb.fetch_chunk(result); chunk; chunk = await duckdb.fetch_chunk(result)) {
    const more = new DuckDBDataChunk(chunk);
    if (more.rowCount === 0) break;
    rows.push(...more.getRows());
  }
  return rows;
}

/**
 * What schema `_waltide` of the file says, kept in memory. Changes are written inside the caller's transaction and
 * count here only after `committed()`; `rolledBack()` forgets them.
 */
export class State {
  readonly #connection: Connection;
  /** The server's timeline, and the one under which the offsets were saved. */
  #timeline = 0;
  #savedTimeline = 0;
  #storeId = '';
  #offsets = new Map<string, Offset>();
  #tables = new Map<string, SinkTable>();
  #newOffsets = new Map<string, Offset>();
  /** Null for a name that no table has any more. */
  #newTables = new Map<string, SinkTable | null>();

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Creates what is missing and reads the rest. Throws CLUSTER_MISMATCH where the file follows another source. */
  async load(identity: SourceIdentity, path: string, version: string): Promise<void> {
    await duckdb.query(this.#connection, `BEGIN; ${CREATE}`);
    const [stored] = await readRows(
      this.#connection,
      `SELECT system_identifier, timeline, slot, "database" FROM ${BOOKKEEPING}.identity`,
    );
    this.#timeline = identity.timeline;
    this.#savedTimeline = stored ? Number(stored[1]) : identity.timeline;
    const values = [
      quoteText(identity.systemIdentifier),
      this.#savedTimeline,
      quoteText(identity.slot),
      quoteText(identity.database),
      quoteText(version),
    ];
    if (stored) checkIdentity(stored, identity, path);
    await duckdb.query(
      this.#connection,
      `DELETE FROM ${BOOKKEEPING}.identity; INSERT INTO ${BOOKKEEPING}.identity VALUES (${values.join(', ')}); COMMIT`,
    );
    this.#offsets = new Map();
    for (const row of await readRows(
      this.#connection,
      `SELECT "partition", commit_lsn, seq, "next" FROM ${BOOKKEEPING}.offsets`,
    )) {
      const [partition, commitLsn, seq, next] = row as [string, bigint, bigint, bigint | null];
      this.#offsets.set(partition, { partition, position: { commitLsn, seq: Number(seq) }, next });
    }
    const [[storeId] = ['']] = await readRows(this.#connection, `SELECT id FROM ${BOOKKEEPING}.store`);
    this.#storeId = String(storeId);
    await this.#loadTables();
  }

  /** Given once, when the file was made; a copy of the file has the same. */
  get storeId(): string {
    return this.#storeId;
  }

  async #loadTables(): Promise<void> {
    this.#tables = new Map();
    const rows = await readRows(
      this.#connection,
      `SELECT schema_name, table_name, t.relation, t."columns", CASE WHEN state <> 'streaming' THEN coalesce(reason, '') END, state,
         s.snapshot, s.relation, s."columns"
       FROM ${BOOKKEEPING}.tables AS t FULL JOIN ${BOOKKEEPING}.shadows AS s USING (schema_name, table_name)`,
    );
    for (const row of rows) {
      const [schema, table, relation, columns, stopped, state, snapshot, newRelation, newColumns] = row as [
        string,
        string,
        ...(string | null)[],
      ];
      const shadow = shapeOf(newRelation, newColumns);
      const known: SinkTable = {
        schema,
        table,
        live: shapeOf(relation, columns),
        stopped: stopped ?? null,
        ...(state === 'refill' || state === 'dropped' ? { because: state } : {}),
        shadow: shadow && snapshot ? { ...shadow, snapshot } : null,
      };
      this.#tables.set(tableKey(known), known);
    }
  }

  /** The timeline of the offsets: a promoted standby has another one. */
  get timeline(): number {
    return this.#savedTimeline;
  }

  offsets(): Offset[] {
    return [...this.#offsets.values()];
  }

  tables(): SinkTable[] {
    return this.#newTables.size === 0 ? [...this.#tables.values()] : [...this.#merged().values()];
  }

  /** A snapshot is being gathered. */
  get filling(): boolean {
    for (const { shadow } of this.#tables.values()) if (shadow) return true;
    return false;
  }

  /** A snapshot is being gathered of a table that is followed meanwhile. */
  get refilling(): boolean {
    for (const { live, shadow } of this.#tables.values()) if (live && shadow) return true;
    return false;
  }

  #merged(): Map<string, SinkTable> {
    const merged = new Map(this.#tables);
    for (const [key, table] of this.#newTables) {
      if (table) merged.set(key, table);
      else merged.delete(key);
    }
    return merged;
  }

  /** The table of that OID, whatever it is called here; where none is, the one of that name. */
  table(relation: { readonly oid?: number; readonly schema: string; readonly table: string }): SinkTable | undefined {
    const key = tableKey(relation);
    const changed = this.#newTables.get(key);
    const named = changed === undefined ? this.#tables.get(key) : (changed ?? undefined);
    const { oid } = relation;
    if (!oid || (named && (oidOf(named) ?? oid) === oid)) return named;
    return this.tables().find((table) => oidOf(table) === oid) ?? named;
  }

  /** Throws a RejectedError where the name in the file belongs to another table of the source. */
  checkName(relation: { readonly schema: string; readonly table: string }): void {
    const key = targetKey(relation);
    for (const other of this.tables()) {
      if ((other.live ?? other.shadow) === null || targetKey(other) !== key || tableKey(other) === tableKey(relation))
        continue;
      const { schema, table } = relation;
      throw new RejectedError(
        schema,
        table,
        `${schema}.${table} would share its name in DuckDB with ${other.schema}.${other.table}`,
      );
    }
  }

  async saveTable(table: SinkTable): Promise<void> {
    const name = `${quoteText(table.schema)}, ${quoteText(table.table)}`;
    const { live, shadow, stopped } = table;
    const shape = (of: TableShape | null): string =>
      of ? `${quoteText(JSON.stringify(of.relation))}, ${quoteText(JSON.stringify(of.columns))}` : 'NULL, NULL';
    const statements = [`DELETE FROM ${BOOKKEEPING}.shadows WHERE (schema_name, table_name) = (${name})`];
    if (live || stopped !== null) {
      const state =
        stopped === null ? `'streaming', NULL` : `${quoteText(table.because ?? 'stopped')}, ${quoteText(stopped)}`;
      statements.push(
        `INSERT INTO ${BOOKKEEPING}.tables VALUES (${name}, ${shape(live)}, ${state}, now())
         ON CONFLICT (schema_name, table_name) DO UPDATE SET relation = excluded.relation, "columns" = excluded."columns",
           state = excluded.state, reason = excluded.reason, "at" = excluded."at"`,
      );
    }
    if (shadow)
      statements.push(
        `INSERT INTO ${BOOKKEEPING}.shadows VALUES (${name}, ${quoteText(shadow.snapshot)}, ${shape(shadow)}, now())`,
      );
    for (const statement of statements) await duckdb.query(this.#connection, statement);
    this.#newTables.set(tableKey(table), table);
  }

  /** The table is no more, or has another name now. */
  async forgetTable(table: { readonly schema: string; readonly table: string }): Promise<void> {
    const name = `${quoteText(table.schema)}, ${quoteText(table.table)}`;
    for (const of of ['tables', 'shadows'])
      await duckdb.query(
        this.#connection,
        `DELETE FROM ${BOOKKEEPING}.${of} WHERE (schema_name, table_name) = (${name})`,
      );
    this.#newTables.set(tableKey(table), null);
  }

  /** Adds to the history of schema changes in this file. */
  async recordChange(
    table: { readonly schema: string; readonly table: string },
    position: Position,
    command: string | null,
    applied: string,
  ): Promise<void> {
    const values = [table.schema, table.table].map(quoteText);
    const { commitLsn, seq } = position;
    await duckdb.query(
      this.#connection,
      `INSERT INTO ${BOOKKEEPING}.schema_changes VALUES (${values.join(', ')}, ${commitLsn}, ${seq}, ${command === null ? 'NULL' : quoteText(command)}, ${quoteText(applied)}, now())`,
    );
  }

  /** Saves those that are ahead of what is stored: an offset never goes back. */
  async saveOffsets(offsets: readonly Offset[]): Promise<void> {
    const ahead = new Map<string, Offset>();
    for (const offset of offsets) {
      const known = ahead.get(offset.partition) ?? this.#offsets.get(offset.partition);
      if (known && !isAhead(offset, known)) continue;
      ahead.set(offset.partition, offset);
    }
    if (ahead.size === 0) return;
    const known: string[] = [];
    const others: string[] = [];
    for (const { partition, position, next } of ahead.values())
      (this.#offsets.has(partition) ? known : others).push(
        `(${quoteText(partition)}, ${position.commitLsn}, ${position.seq}, ${next ?? 'NULL'}, now())`,
      );
    // INSERT … ON CONFLICT takes DuckDB nearly twice as long, for each batch.
    if (known.length > 0) {
      const result = await duckdb.query(
        this.#connection,
        `UPDATE ${BOOKKEEPING}.offsets AS o SET commit_lsn = v.commit_lsn, seq = v.seq, "next" = v."next", updated_at = v.updated_at
         FROM (VALUES ${known.join(', ')}) AS v ("partition", commit_lsn, seq, "next", updated_at) WHERE o."partition" = v."partition"`,
      );
      if (duckdb.rows_changed(result) !== known.length) throw new Error('offsets that were saved are not there');
    }
    if (others.length > 0)
      await duckdb.query(this.#connection, `INSERT INTO ${BOOKKEEPING}.offsets VALUES ${others.join(', ')}`);
    if (this.#timeline !== this.#savedTimeline)
      await duckdb.query(this.#connection, `UPDATE ${BOOKKEEPING}.identity SET timeline = ${this.#timeline}`);
    this.#newOffsets = ahead;
  }

  committed(): void {
    if (this.#newOffsets.size > 0) this.#savedTimeline = this.#timeline;
    if (this.#newTables.size > 0) this.#tables = this.#merged();
    for (const [key, offset] of this.#newOffsets) this.#offsets.set(key, offset);
    this.rolledBack();
  }

  rolledBack(): void {
    this.#newTables = new Map();
    this.#newOffsets = new Map();
  }
}

const oidOf = ({ live, shadow }: SinkTable): number | undefined => (live ?? shadow)?.relation.oid || undefined;

function shapeOf(relation: string | null | undefined, columns: string | null | undefined): TableShape | null {
  if (relation == null || columns == null) return null;
  return { relation: JSON.parse(relation) as Relation, columns: JSON.parse(columns) as SinkColumn[] };
}

/** At one position, a log offset further on still counts: records that bring no event move it. */
function isAhead(offset: Offset, known: Offset): boolean {
  const order = comparePosition(offset.position, known.position);
  return order === 0 ? (offset.next ?? -1n) > (known.next ?? -1n) : order > 0;
}

function checkIdentity(stored: unknown[], identity: SourceIdentity, path: string): void {
  const [systemIdentifier, , slot, database] = stored as [string, number, string, string];
  const differences: string[] = [];
  if (systemIdentifier !== identity.systemIdentifier)
    differences.push(`cluster ${systemIdentifier}, not ${identity.systemIdentifier}`);
  if (slot !== identity.slot) differences.push(`slot "${slot}", not "${identity.slot}"`);
  if (database !== identity.database) differences.push(`database "${database}", not "${identity.database}"`);
  if (differences.length === 0) return;
  throw new WaltideError(
    'CLUSTER_MISMATCH',
    `the DuckDB file ${path} follows ${differences.join(' and ')}`,
    'Set source.url and source.slot back to what the file follows, or give the sink a new path to start a fresh copy.',
  );
}
