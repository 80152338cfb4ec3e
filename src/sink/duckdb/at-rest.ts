import { existsSync } from 'node:fs';
import duckdb from '@duckdb/node-bindings';
import type { DuckdbSinkConfig } from '../../config/schema.ts';
import { WaltideError } from '../../errors.ts';
import type { QueryResult } from '../sink.ts';
import { DuckdbFile } from './database.ts';
import { runQuery } from './query.ts';

/** Runs one reading statement on a file that no process holds. Throws SINK_QUERY, or SINK_LOCKED where one does. */
export async function queryAtRest(
  config: DuckdbSinkConfig,
  sql: string,
  limits: { readonly rowsMax: number; readonly timeoutMs: number },
): Promise<QueryResult> {
  // Opening would create it.
  if (!existsSync(config.path))
    throw new WaltideError('SINK_QUERY', `there is no file ${config.path} yet`, 'Fill it with `waltide run` first.');
  const file = await DuckdbFile.open(config);
  const connection = await file.connect();
  try {
    return await runQuery(connection, sql, { ...limits, signal: new AbortController().signal });
  } finally {
    duckdb.disconnect_sync(connection);
    file.close();
  }
}
