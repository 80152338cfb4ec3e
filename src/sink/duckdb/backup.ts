import { existsSync } from 'node:fs';
import { mkdir, open, rename, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import duckdb from '@duckdb/node-bindings';
import type { DuckdbSinkConfig } from '../../config/schema.ts';
import { WaltideError } from '../../errors.ts';
import { formatLsn, type Lsn } from '../../event/lsn.ts';
import type { Offset } from '../../event/offset.ts';
import { relationName } from '../../event/relation.ts';
import { failpoint } from '../../failpoint.ts';
import { fileError, syncParent, syncPath } from '../durable-files.ts';
import type { Sink } from '../sink.ts';
import type { BackedUp, StoreOwner, UpkeepWatch } from '../upkeep.ts';
import { storeError } from './database.ts';
import { copyBytes, partOf, removeParts, removeStore } from './file-copy.ts';
import { lowestLsn, readContents, type StoreContents } from './held-tables.ts';
import { opened } from './on-store.ts';
import { readRows } from './state.ts';

const PART = '.waltide-part-';

/** Files that this process is writing: not to be taken for leftovers. */
const writing = new Set<string>();

/**
 * Writes a copy of the sink's file with its offsets, and reads all of it once more before it takes the name `to`. An older
 * backup of the same slot is replaced whole, or stays; nothing else is replaced (USAGE). Rows are applied meanwhile. Throws
 * SINK_LOCKED where another process has the file open.
 */
export async function backUp(
  config: DuckdbSinkConfig,
  live: Sink | null,
  to: string,
  watch: UpkeepWatch,
): Promise<BackedUp> {
  if (live === null && !existsSync(config.path))
    throw new WaltideError('SINK_INVALID', `there is no file ${config.path} yet`, 'Fill it with `waltide run` first.');
  const part = partOf(to + PART);
  writing.add(part);
  try {
    const older = await prepare(config, to);
    const offsets = live ? await live.copyTo!(part, watch.signal) : null;
    if (!live) await copyAtRest(config, part, watch.signal);
    failpoint('during-backup');
    const verified = await verify(config, part, watch);
    if (offsets) checkLsn(verified.contents.lsn, offsets, part);
    if (older && !sameOwner(older, verified.contents.owner))
      throw new WaltideError('USAGE', `${to} is a backup of another slot or server`, 'Name another file.');
    await syncPath(part);
    failpoint('before-backup-rename');
    await rename(part, to);
    await syncParent(to);
    const { lsn, tables } = verified;
    return { path: to, bytes: (await stat(to)).size, lsn, tables };
  } catch (error) {
    watch.signal.throwIfAborted();
    throw fileError(`writing ${to}`, error);
  } finally {
    await removeStore(part).catch(() => undefined);
    writing.delete(part);
  }
}

/** Whose backup is to be replaced; null where there is none. */
async function prepare(config: DuckdbSinkConfig, to: string): Promise<StoreOwner | null> {
  await mkdir(dirname(to), { recursive: true });
  const there = await stat(to).catch(() => null);
  const sink = await stat(config.path).catch(() => null);
  if (there?.isDirectory()) throw new WaltideError('USAGE', `${to} is a directory`, 'Name a file.');
  if (there && sink && there.ino === sink.ino && there.dev === sink.dev)
    throw new WaltideError('USAGE', `${to} is the sink's own file`, 'Name another one.');
  await removeParts(to + PART, writing);
  return there ? await ownerOf(config, to, there.isFile()) : null;
}

async function ownerOf(config: DuckdbSinkConfig, path: string, isFile: boolean): Promise<StoreOwner> {
  const foreign = (cause?: unknown): WaltideError =>
    new WaltideError(
      'USAGE',
      `${path} is there, and is no backup that could be replaced`,
      'Name another file, or remove it.',
      { cause },
    );
  // Nothing else is even opened: DuckDB would wait for a pipe, and log to a device.
  if (!isFile || !(await isDuckdb(path))) throw foreign();
  try {
    return await opened(config, path, async (file) => {
      const { owner } = await readContents(file.connection, { ...file, sink: config.name });
      return owner;
    });
  } catch (error) {
    throw foreign(error);
  }
}

/** DuckDB's storage format: the magic bytes stand behind the checksum of the first header. */
async function isDuckdb(path: string): Promise<boolean> {
  const file = await open(path, 'r');
  try {
    const { buffer } = await file.read(Buffer.alloc(12), 0, 12, 0);
    return buffer.toString('latin1', 8) === 'DUCK';
  } finally {
    await file.close();
  }
}

const sameOwner = (a: StoreOwner, b: StoreOwner): boolean =>
  a.systemIdentifier === b.systemIdentifier && a.database === b.database && a.slot === b.slot;

/** What the copy says of itself is what the sink said when it was taken. */
function checkLsn(found: Lsn, offsets: readonly Offset[], path: string): void {
  const taken = lowestLsn(offsets.map(({ position }) => position.commitLsn));
  if (found === taken) return;
  const message = `${path} stands at ${formatLsn(found)}, and was taken at ${formatLsn(taken)}`;
  throw new WaltideError('INTERNAL', message, 'Nothing was written. Please report this with the log.');
}

/** Open, the file is locked by this process, and all of its log is in it. */
function copyAtRest(config: DuckdbSinkConfig, to: string, signal: AbortSignal): Promise<void> {
  return opened(config, config.path, (file) => copyBytes(file.readFd, to, Number.POSITIVE_INFINITY, signal));
}

/** Reads every block of every column: DuckDB checks their checksums. Leaves the file without a log. */
export function verify(
  config: DuckdbSinkConfig,
  path: string,
  watch: UpkeepWatch,
): Promise<Pick<BackedUp, 'lsn' | 'tables'> & { readonly contents: StoreContents }> {
  return opened(config, path, async (file) => {
    const contents = await readContents(file.connection, { ...file, sink: config.name });
    const tables: { schema: string; table: string; rows: number }[] = [];
    let rows = 0;
    for (const table of contents.tables) {
      watch.signal.throwIfAborted();
      try {
        const [[count] = [0n]] = await readRows(
          file.connection,
          `SELECT count(*), bit_xor(hash(t)) FROM ${table.name} AS t`,
        );
        tables.push({ schema: table.schema, table: table.table, rows: Number(count) });
        rows += Number(count);
        watch.note(rows);
      } catch (error) {
        throw storeError(`reading ${relationName(table)} of ${path}`, error);
      }
    }
    await duckdb.query(file.connection, 'CHECKPOINT');
    return { contents, lsn: formatLsn(contents.lsn), tables };
  });
}
