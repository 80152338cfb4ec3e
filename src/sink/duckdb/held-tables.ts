import type { Connection } from '@duckdb/node-bindings';
import { WaltideError } from '../../errors.ts';
import { LSN_MAX, type Lsn } from '../../event/lsn.ts';
import { relationName } from '../../event/relation.ts';
import type { StoreOwner } from '../upkeep.ts';
import { sqlName } from './layout.ts';
import { BOOKKEEPING, targetSchema } from './names.ts';
import { readRows } from './state.ts';

/** A table of a file that nobody applies to. */
export interface HeldTable {
  readonly schema: string;
  readonly table: string;
  /** In SQL. */
  readonly name: string;
  /** Why it is not followed; null where it is. */
  readonly notFollowed: string | null;
  readonly columns: readonly string[];
}

/** What a file says of itself. */
export interface StoreContents {
  readonly owner: StoreOwner;
  /** Everything that was committed before it is in; 0 where nothing was ever applied. */
  readonly lsn: Lsn;
  readonly tables: readonly HeldTable[];
}

/** Everything before it is in all partitions; 0 where there are none. */
export function lowestLsn(lsns: readonly Lsn[]): Lsn {
  let lowest = lsns.length === 0 ? 0n : LSN_MAX;
  for (const lsn of lsns) if (lsn < lowest) lowest = lsn;
  return lowest;
}

/** Throws SINK_INVALID where the file is none of Waltide's. */
export async function readContents(
  connection: Connection,
  { catalog, path, sink }: { readonly catalog: string; readonly path: string; readonly sink: string },
): Promise<StoreContents> {
  const [identity] = await rowsOf(
    connection,
    path,
    `SELECT system_identifier, "database", slot FROM ${BOOKKEEPING}.identity`,
  );
  if (!identity) throw notOurs(path);
  const [systemIdentifier, database, slot] = identity as [string, string, string];
  const offsets = await rowsOf(connection, path, `SELECT commit_lsn FROM ${BOOKKEEPING}.offsets`);
  const lsn = lowestLsn((offsets as [bigint][]).map(([at]) => at));
  const rows = await rowsOf(
    connection,
    path,
    `SELECT schema_name, table_name, "columns", CASE WHEN state <> 'streaming' THEN coalesce(reason, '') END
     FROM ${BOOKKEEPING}.tables WHERE relation IS NOT NULL ORDER BY schema_name, table_name`,
  );
  const tables = (rows as [string, string, string, string | null][]).map(([schema, table, columns, notFollowed]) => ({
    schema,
    table,
    name: sqlName({ catalog, schema: targetSchema(schema), table }),
    notFollowed,
    columns: (JSON.parse(columns) as { name: string }[]).map(({ name }) => name),
  }));
  return { owner: { sink, systemIdentifier, database, slot }, lsn, tables };
}

async function rowsOf(connection: Connection, path: string, sql: string): Promise<unknown[][]> {
  try {
    return await readRows(connection, sql);
  } catch (error) {
    if (/does not exist/i.test((error as Error).message)) throw notOurs(path, error);
    throw error;
  }
}

function notOurs(path: string, cause?: unknown): WaltideError {
  return new WaltideError(
    'SINK_INVALID',
    `${path} is no DuckDB file of Waltide's: it has no schema "${BOOKKEEPING}", or nothing in it`,
    'Name a file that `waltide backup` has written, or that a sink was applied to.',
    { cause },
  );
}

/** The tables that were asked for; all where none were. Throws USAGE for one that is not there. */
export function chooseTables(asked: readonly string[] | null, tables: readonly HeldTable[]): readonly HeldTable[] {
  if (asked === null) return tables;
  return asked.map((name) => {
    const found =
      tables.find((table) => relationName(table) === name) ??
      tables.find(({ schema, table }) => schema === 'public' && table === name);
    if (found) return found;
    const names = tables.map(relationName).join(', ') || 'none';
    throw new WaltideError('USAGE', `the sink holds no table "${name}"`, `It holds: ${names}.`);
  });
}
