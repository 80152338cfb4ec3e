import duckdb from '@duckdb/node-bindings';
import type { Optimized } from '../upkeep.ts';
import { type DuckdbFile, storeError } from './database.ts';
import { bytesOf, logPath } from './file-copy.ts';

/**
 * CHECKPOINT writes what the log holds into the file, drops row groups whose rows are all deleted, puts small ones together and
 * gives free blocks at the file's end back to the disk; free ones in its middle are used for what comes next. ANALYZE counts
 * distinct values anew for the order of joins.
 */
export async function optimizeFile({ path, connection }: DuckdbFile): Promise<Optimized> {
  const bytes = async (): Promise<number> => (await bytesOf(path)) + (await bytesOf(logPath(path)));
  const bytesBefore = await bytes();
  const done: string[] = [];
  try {
    for (const statement of ['CHECKPOINT', 'ANALYZE']) {
      await duckdb.query(connection, statement);
      done.push(statement);
    }
  } catch (error) {
    throw storeError(`optimizing ${path}`, error);
  }
  return { bytesBefore, bytesAfter: await bytes(), done };
}
