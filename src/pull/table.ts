import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { parseRelationName } from '../event/relation.ts';
import { queryError } from '../postgres/connection.ts';

/** Where pages are written, and which columns may be. */
export interface PullTable {
  readonly schema: string;
  readonly table: string;
  /** By name: the type as SQL has it. */
  readonly columns: ReadonlyMap<string, string>;
  /** What tells rows apart; a unique constraint holds them so. */
  readonly key: readonly string[];
}

export interface PullTableSpec {
  readonly table: string;
  /** Null: the primary key. */
  readonly key: readonly string[] | null;
  /** Null: every column that is not generated. */
  readonly columns: readonly string[] | null;
}

const COLUMNS = `
SELECT a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, a.attgenerated <> '' AS generated,
       COALESCE(a.attnum = ANY (i.indkey), false) AS "inKey"
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p') ORDER BY a.attnum`;

interface Found {
  readonly name: string;
  readonly type: string;
  readonly generated: boolean;
  readonly inKey: boolean;
}

/** Rejects with TABLES where there is no such table, with CONFIG_INVALID where a column of the schedule is not there. */
export async function findPullTable(client: pg.Client, spec: PullTableSpec): Promise<PullTable> {
  const { schema, table } = parseRelationName(spec.table);
  let found: readonly Found[];
  try {
    found = (await client.query<Found>(COLUMNS, [schema, table])).rows;
  } catch (error) {
    throw queryError(error, `looking for table ${spec.table}`);
  }
  if (found.length === 0)
    throw new WaltideError('TABLES', `there is no table ${schema}.${table}`, 'Create it, or correct `table`.');
  const invalid = (what: string): WaltideError =>
    new WaltideError('CONFIG_INVALID', `${schema}.${table}: ${what}`, 'Correct the schedule.');
  const key = spec.key ?? found.filter(({ inKey }) => inKey).map(({ name }) => name);
  if (key.length === 0) throw invalid('it has no primary key, so name the columns of a unique constraint in `key`');
  const wanted = spec.columns === null ? null : new Set([...spec.columns, ...key]);
  const unknown = [...(wanted ?? key)].find((name) => !found.some((column) => column.name === name));
  if (unknown !== undefined) throw invalid(`it has no column "${unknown}"`);
  const columns = found.filter(({ name, generated }) => !generated && (wanted?.has(name) ?? true));
  return { schema, table, key, columns: new Map(columns.map(({ name, type }) => [name, type])) };
}
