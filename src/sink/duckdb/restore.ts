import { existsSync } from 'node:fs';
import { link, open, rename } from 'node:fs/promises';
import duckdb from '@duckdb/node-bindings';
import type { DuckdbSinkConfig } from '../../config/schema.ts';
import { WaltideError } from '../../errors.ts';
import { failpoint } from '../../failpoint.ts';
import { fileError, syncParent, syncPath } from '../durable-files.ts';
import type { Restored, RestoreRequest, StoreOwner, UpkeepWatch } from '../upkeep.ts';
import { verify } from './backup.ts';
import { DuckdbFile } from './database.ts';
import { copyBytes, logPath, partOf, removeParts, removeStore } from './file-copy.ts';
import { BOOKKEEPING, quoteText } from './names.ts';
import { opened } from './on-store.ts';

/**
 * Puts a backup in the place of the sink's file, which is kept beside it. Throws SINK_LOCKED where a process has the file open,
 * CLUSTER_MISMATCH where the backup is of another source or slot; nothing is changed then.
 */
export async function restoreFile(
  config: DuckdbSinkConfig,
  { from, owner, decide }: RestoreRequest,
  watch: UpkeepWatch,
): Promise<Restored> {
  if (!existsSync(from))
    throw new WaltideError('USAGE', `there is no file ${from}`, 'Name one that `waltide backup` has written.');
  const { path } = config;
  const prefix = `${path}.restore-`;
  const part = partOf(prefix);
  try {
    // Held throughout: no process can begin to apply to it. Its log is in the file afterwards.
    const current = existsSync(path) ? await DuckdbFile.open(config).catch(unreadable) : null;
    try {
      await removeParts(prefix, new Set());
      const source = await open(from, 'r');
      try {
        await copyBytes(source.fd, part, Number.POSITIVE_INFINITY, watch.signal);
        if (existsSync(logPath(from))) {
          const log = await open(logPath(from), 'r');
          await copyBytes(log.fd, logPath(part), Number.POSITIVE_INFINITY, watch.signal).finally(() => log.close());
        }
      } finally {
        await source.close();
      }
      const { contents, tables } = await verify(config, part, watch);
      checkOwner(from, contents.owner, owner);
      const refill = decide(contents.lsn);
      if (refill !== null) await beginAnew(config, part, refill);
      await syncPath(part);
      failpoint('during-restore');
      const keptAs = existsSync(path) ? await setAside(path) : null;
      failpoint('before-restore-rename');
      await rename(part, path);
      await syncParent(path);
      return { path, keptAs, lsn: contents.lsn, refill, tables };
    } finally {
      current?.close();
    }
  } catch (error) {
    watch.signal.throwIfAborted();
    throw fileError(`restoring ${path} from ${from}`, error);
  } finally {
    await removeStore(part).catch(() => undefined);
  }
}

/** A broken file is a reason to restore; one that is open is none. */
function unreadable(error: unknown): null {
  if (error instanceof WaltideError && error.code === 'SINK_LOCKED') throw error;
  return null;
}

/** A second name for the file, so that there is one under its own at any time. What is left of its log goes along. */
async function setAside(path: string): Promise<string> {
  const keptAs = `${path}.before-restore-${new Date().toISOString().replaceAll(':', '')}`;
  if (existsSync(logPath(path))) await rename(logPath(path), logPath(keptAs));
  await link(path, keptAs);
  await syncParent(path);
  return keptAs;
}

function checkOwner(from: string, found: StoreOwner, wanted: Omit<StoreOwner, 'sink'>): void {
  const differences: string[] = [];
  if (found.systemIdentifier !== wanted.systemIdentifier)
    differences.push(`cluster ${found.systemIdentifier}, not ${wanted.systemIdentifier}`);
  if (found.database !== wanted.database) differences.push(`database "${found.database}", not "${wanted.database}"`);
  if (found.slot !== wanted.slot) differences.push(`slot "${found.slot}", not "${wanted.slot}"`);
  if (differences.length === 0) return;
  throw new WaltideError(
    'CLUSTER_MISMATCH',
    `${from} is of ${differences.join(' and ')}`,
    'Name a backup of this sink, or set source.url and source.slot to what it follows.',
  );
}

/** Its rows stay to be read, and each table is filled anew beside the stream: what came after them is gone. */
async function beginAnew(config: DuckdbSinkConfig, path: string, reason: string): Promise<void> {
  await opened(config, path, async ({ connection }) => {
    await duckdb.query(
      connection,
      `BEGIN; DELETE FROM ${BOOKKEEPING}.offsets;
       UPDATE ${BOOKKEEPING}.tables SET state = 'refill', reason = ${quoteText(reason)} WHERE state = 'streaming';
       COMMIT; CHECKPOINT`,
    );
  });
}
