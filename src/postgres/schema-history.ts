import type pg from 'pg';
import { formatLsn, parseLsn } from '../event/lsn.ts';
import type { Position } from '../event/position.ts';
import type { ReplicaIdentity } from '../event/relation.ts';
import type { SchemaChange } from '../event/schema-change.ts';
import { isMissing, queryError } from './connection.ts';

/** A column as the history keeps it. What only the capture trigger knows is absent where it did not tell. */
export interface RecordedColumn {
  readonly attnum?: number;
  readonly name: string;
  readonly type: string;
  readonly notNull?: boolean;
  readonly default?: string | null;
  /** Of an enum. */
  readonly labels?: readonly string[];
  readonly labelOids?: readonly number[];
}

/** A table as the history keeps it. */
export interface RecordedTable {
  readonly schema: string;
  readonly table: string;
  readonly replicaIdentity: ReplicaIdentity;
  /** Names of the key's columns. */
  readonly key: readonly string[];
  readonly columns: readonly RecordedColumn[];
  /** OIDs of its partitions, which hold the rows; empty for what has none, absent where nobody told. */
  readonly partitions?: readonly number[];
}

export interface RecordedChange {
  readonly oid: number;
  readonly position: Position;
  readonly command: string | null;
  readonly schema: string;
  readonly table: string;
  readonly old: RecordedTable | null;
  readonly new: RecordedTable | null;
  readonly rewritten: SchemaChange['rewritten'];
  readonly committedAt: Date;
}

const COLUMNS = `table_oid::float8 AS oid, commit_lsn::text AS lsn, seq::float8 AS seq, command, schema_name AS schema,
  table_name AS "table", old, new, rewritten, committed_at AS "committedAt"`;

interface HistoryRow extends Omit<RecordedChange, 'position'> {
  lsn: string;
  seq: number;
}

const changeOf = ({ lsn, seq, ...rest }: HistoryRow): RecordedChange => ({
  ...rest,
  position: { commitLsn: parseLsn(lsn), seq },
});

/** The last change of each table. */
export async function readLastChanges(client: pg.Client, slot: string): Promise<RecordedChange[]> {
  return read(
    client,
    `SELECT DISTINCT ON (table_oid) ${COLUMNS} FROM waltide.schema_history AS history WHERE slot_name = $1
     ORDER BY table_oid, commit_lsn DESC, history.seq DESC`,
    [slot],
  );
}

/** Changes in their order of every table that was ever called `schema.table`, whatever it is called now. */
export async function readHistory(
  client: pg.Client,
  slot: string,
  table: { readonly schema: string; readonly table: string },
): Promise<RecordedChange[]> {
  return read(
    client,
    `SELECT ${COLUMNS} FROM waltide.schema_history AS history WHERE slot_name = $1 AND table_oid IN (
       SELECT table_oid FROM waltide.schema_history WHERE slot_name = $1 AND schema_name = $2 AND table_name = $3)
     ORDER BY commit_lsn, history.seq`,
    [slot, table.schema, table.table],
  );
}

async function read(client: pg.Client, sql: string, values: unknown[]): Promise<RecordedChange[]> {
  try {
    const { rows } = await client.query<HistoryRow>(sql, values);
    return rows.map(changeOf);
  } catch (error) {
    if (isMissing(error)) return [];
    throw queryError(error, 'reading waltide.schema_history');
  }
}

/** Resolves = recorded; a change that is there already stays as it is. */
export async function recordChange(client: pg.Client, slot: string, change: RecordedChange): Promise<void> {
  const json = (table: RecordedTable | null): string | null => table && JSON.stringify(table);
  try {
    await client.query(
      `INSERT INTO waltide.schema_history (slot_name, table_oid, commit_lsn, seq, command, schema_name, table_name, old, new, rewritten, committed_at)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`,
      [
        slot,
        change.oid,
        formatLsn(change.position.commitLsn),
        change.position.seq,
        change.command,
        change.schema,
        change.table,
        json(change.old),
        json(change.new),
        change.rewritten,
        change.committedAt,
      ],
    );
  } catch (error) {
    throw queryError(error, 'writing waltide.schema_history');
  }
}
