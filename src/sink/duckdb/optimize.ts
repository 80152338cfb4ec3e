import duckdb from '@duckdb/node-bindings';
import type { Optimized } from '../upkeep.ts';
import { type DuckdbFile, storeError } from './database.ts';
import { bytesOf, logPath } from './file-copy.ts';

/**
 * CHECKPOINT writes what the log holds into the file, drops row groups whose rows are all deleted, puts small ones together and
 * gives free blocks at the file's end back to the disk; free ones in its middle are used for what comes next. ANALYZE counts
 * distinct values anew for the order of joins.
 */
export async function optimizeFile(file: DuckdbFile): Promise<Optimized> {
  const { path, connection } = file;
  const bytes = async (): Promise<number> => (await bytesOf(path)) + (await bytesOf(logPath(path)));
  const bytesBefore = await bytes();
  const done: string[] = [];
  try {
    await file.tidy('much');
    for (const statement of ['CHECKPOINT', 'ANALYZE']) {
      await duckdb.query(connection, statement);
      done.push(statement);
    }
  } catch (error) {
    throw storeError(`optimizing ${path}`, error);
  } finally {
    await file.tidy('little').catch(() => undefined);
  }
  return { bytesBefore, bytesAfter: await bytes(), done };
}
