import { existsSync } from 'node:fs';
import type { DuckdbSinkConfig } from '../../config/schema.ts';
import { WaltideError } from '../../errors.ts';
import type { Sink } from '../sink.ts';
import { DuckdbFile } from './database.ts';
import { partOf, removeParts, removeStore } from './file-copy.ts';

/** Beside what the sink itself takes. */
const MEMORY_BYTES_MIN = 256 * 2 ** 20;

/** Copies that this process works on: not to be taken for leftovers. */
const working = new Set<string>();

/**
 * Does `work` on the sink's file as it is now: on a copy of it beside the file where `live` has it open (DuckDB then has memory
 * of its own for it, and rows are applied meanwhile), and on the file itself where nobody has. Throws SINK_LOCKED where
 * another process has.
 */
export async function onStore<T>(
  config: DuckdbSinkConfig,
  live: Sink | null,
  signal: AbortSignal,
  work: (file: DuckdbFile) => Promise<T>,
): Promise<T> {
  if (live === null) {
    if (!existsSync(config.path))
      throw new WaltideError(
        'SINK_INVALID',
        `there is no file ${config.path} yet`,
        'Fill it with `waltide run` first.',
      );
    return opened(config, config.path, work);
  }
  const prefix = `${config.path}.copy-`;
  const copy = partOf(prefix);
  working.add(copy);
  try {
    // The file itself is locked by this process, so no other works on a copy of it.
    await removeParts(prefix, working);
    await live.copyTo!(copy, signal);
    return await opened(config, copy, work);
  } finally {
    await removeStore(copy);
    working.delete(copy);
  }
}

/** A DuckDB file in an instance of its own. */
export async function opened<T>(
  { threads, memoryLimit, s3 }: Pick<DuckdbSinkConfig, 'threads' | 'memoryLimit' | 's3'>,
  path: string,
  work: (file: DuckdbFile) => Promise<T>,
): Promise<T> {
  const file = await DuckdbFile.open({ path, threads, memoryLimit, s3, exports: { bytesMin: MEMORY_BYTES_MIN } });
  try {
    return await work(file);
  } finally {
    file.close();
  }
}
