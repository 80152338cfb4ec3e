import { randomBytes } from 'node:crypto';
import { close, open as openFd, read } from 'node:fs';
import { open, readdir, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { fileError } from '../durable-files.ts';

const CHUNK_BYTES = 8 << 20;
const readFd = promisify(read);

/** The log beside a DuckDB file: what was committed after the last checkpoint. */
export const logPath = (path: string): string => `${path}.wal`;

/** Bytes of a file; 0 where there is none. Rejects where that cannot be told: a copy without the log would lack what it holds. */
export async function bytesOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw fileError(`looking at ${path}`, error);
  }
}

/**
 * Copies a DuckDB file (`fd`), and the first `logBytes` of its log, while it is open and written to, but not checkpointed:
 * until the next checkpoint, DuckDB writes new blocks only where the last one left none, and appends to its log. Together they
 * are the file as it was when its log was so long. Nothing is left of it where it rejects.
 */
export async function copyStore(
  { fd, path }: { readonly fd: number; readonly path: string },
  logBytes: number,
  to: string,
  signal: AbortSignal,
): Promise<void> {
  try {
    await copyBytes(fd, to, Number.POSITIVE_INFINITY, signal);
    if (logBytes === 0) return;
    const log = await promisify(openFd)(logPath(path), 'r');
    try {
      await copyBytes(log, logPath(to), logBytes, signal);
    } finally {
      await promisify(close)(log);
    }
  } catch (error) {
    await removeStore(to).catch(() => undefined);
    signal.throwIfAborted();
    throw fileError(`copying ${path} to ${to}`, error);
  }
}

/** A file of DuckDB, with its log and what was spilled. */
export async function removeStore(path: string): Promise<void> {
  for (const one of [path, logPath(path), `${path}.tmp`]) await rm(one, { recursive: true, force: true });
}

const OWN_SUFFIX = /^[0-9a-f]{8}/;

/** A name beside others that begin with `prefix`, for a file that is being written. */
export const partOf = (prefix: string): string => prefix + randomBytes(4).toString('hex');

/** Removes what a killed process has left under names of `partOf`, but for those that this process works on. */
export async function removeParts(prefix: string, working: ReadonlySet<string>): Promise<void> {
  const [directory, start] = [dirname(prefix), basename(prefix)];
  for (const name of await readdir(directory)) {
    const [suffix] = name.startsWith(start) ? (OWN_SUFFIX.exec(name.slice(start.length)) ?? []) : [];
    if (suffix === undefined || working.has(prefix + suffix)) continue;
    await rm(join(directory, name), { recursive: true, force: true });
  }
}

/** What was there is not overwritten. Who may read the source may read the copy. */
export async function copyBytes(fd: number, to: string, bytes: number, signal: AbortSignal): Promise<void> {
  const target = await open(to, 'wx', 0o600);
  try {
    const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
    for (let at = 0; at < bytes; ) {
      signal.throwIfAborted();
      const { bytesRead } = await readFd(fd, buffer, 0, Math.min(buffer.length, bytes - at), at);
      if (bytesRead === 0) break;
      for (let written = 0; written < bytesRead; )
        written += (await target.write(buffer, written, bytesRead - written, at + written)).bytesWritten;
      at += bytesRead;
    }
  } finally {
    await target.close();
  }
}
