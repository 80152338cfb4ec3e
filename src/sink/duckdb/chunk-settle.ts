import duckdb, { type Connection } from '@duckdb/node-bindings';
import type { Relation } from '../../event/relation.ts';
import { sqlName, type TableName } from './layout.ts';
import { BOOKKEEPING, quoteName, quoteText, settleTable } from './names.ts';
import { readRows } from './state.ts';

/*
 * A chunk that was loaded beside the stream is committed together with a table of keys, of which too many rows are there then:
 * those that were changed since (`gone`), whose chunk row goes, and those that had been there before, whose other rows go. The chunk's
 * row is the last of its key. In a table, so that no crash comes between.
 */

/** What is settled: a shadow table, and the table of the source that it is of. */
export interface Settled {
  readonly shadow: TableName;
  readonly relation: Relation;
}

/** Names of the key's columns, in SQL, in the table of keys. */
export const keyNames = ({ key }: Relation): string[] => key.map((_, index) => `k${index}`);

/** The table of keys, in SQL. */
export const notedName = (shadow: TableName): string =>
  sqlName({ catalog: shadow.catalog, schema: BOOKKEEPING, table: settleTable(shadow) });

/** Deletes the rows, in a transaction of its own. */
export async function settleChunk(connection: Connection, { shadow, relation }: Settled): Promise<void> {
  const names = keyNames(relation);
  const keys = names.map((name) => `s.${name}`).join(', ');
  const match = relation.key.map((column, i) => `t.${quoteName(relation.columns[column]!.name)} = s.${names[i]}`);
  const noted = notedName(shadow);
  await duckdb.query(connection, 'BEGIN');
  await duckdb.query(
    connection,
    `DELETE FROM ${sqlName(shadow)} WHERE rowid IN (SELECT r FROM (
       SELECT t.rowid AS r, s.gone, max(t.rowid) OVER (PARTITION BY ${keys}) AS last
       FROM (SELECT ${names.join(', ')}, bool_or(gone) AS gone FROM ${noted} GROUP BY ALL) AS s JOIN ${sqlName(shadow)} AS t ON ${match.join(' AND ')})
     WHERE CASE WHEN gone THEN r = last ELSE r < last END)`,
  );
  await duckdb.query(connection, `DROP TABLE ${noted}`);
  await duckdb.query(connection, 'COMMIT');
}

/** What a crash has left, of these tables. */
export async function settleAll(connection: Connection, all: readonly Settled[]): Promise<void> {
  if (all.length === 0) return;
  const sql = `SELECT table_name FROM duckdb_tables() WHERE schema_name = ${quoteText(BOOKKEEPING)}`;
  const there = new Set((await readRows(connection, sql)).map(([name]) => name));
  for (const one of all) if (there.has(settleTable(one.shadow))) await settleChunk(connection, one);
}
