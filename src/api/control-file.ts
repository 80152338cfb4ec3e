import { randomBytes } from 'node:crypto';
import { lstat, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { messageOf, WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';

/** How a running process is reached: `<stateDir>/<slot>.<role>.<pid>.json`. Whoever can read it may use the process. */
export interface ControlFile {
  readonly path: string;
  readonly pid: number;
  /** The machine (or container) that it runs on: its address means nothing elsewhere. */
  readonly host: string;
  readonly role: string;
  readonly slot: string;
  readonly url: string;
  readonly token: string;
}

const LOOPBACK_URL = /^http:\/\/127\.0\.0\.1:\d{1,5}$/;
/** A control file is a few hundred bytes. */
const BYTES_MAX = 10_000;

const contents = z.object({
  pid: z.number().int().positive(),
  host: z.string(),
  role: z.string(),
  slot: z.string(),
  // Ours are always on loopback: a file that says otherwise would send the token away.
  url: z.string().regex(LOOPBACK_URL),
  token: z.string().min(32),
});

/** Resolves = the file stands there whole, readable by this user alone. */
export async function writeControlFile(stateDir: string, entry: Omit<ControlFile, 'path'>, log: Log): Promise<string> {
  const path = join(stateDir, `${entry.slot}.${entry.role}.${entry.pid}.json`);
  // Renamed into place, so that nobody reads half of it, and exclusive, so that nobody's symlink is followed.
  const draft = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    await mkdir(stateDir, { recursive: true, mode: 0o700 });
    await warnIfShared(stateDir, log);
    await removeStale(stateDir);
    const file = await open(draft, 'wx', 0o600);
    try {
      await file.writeFile(`${JSON.stringify(entry, null, 2)}\n`);
    } finally {
      await file.close();
    }
    await rename(draft, path);
    return path;
  } catch (error) {
    await rm(draft, { force: true }).catch(() => {});
    throw new WaltideError(
      'CONFIG_INVALID',
      `stateDir ${stateDir} cannot be written: ${messageOf(error)}`,
      'Set stateDir to a folder that this user may write.',
      { cause: error },
    );
  }
}

/** A folder that was there before keeps its mode: it may be /tmp. */
async function warnIfShared(stateDir: string, log: Log): Promise<void> {
  const { mode } = await lstat(stateDir);
  const sticky = (mode & 0o1000) !== 0;
  if (process.platform !== 'win32' && (mode & 0o022) !== 0 && !sticky)
    log.warn({ stateDir }, 'others may write to stateDir, and so stand in for this process; chmod 700 it');
}

/** What a killed process left behind. */
async function removeStale(stateDir: string): Promise<void> {
  for (const file of await readControlFiles(stateDir)) if (!isAlive(file)) await rm(file.path, { force: true });
}

/** Every readable control file of the folder, stale ones included. An absent folder holds none. */
export async function readControlFiles(stateDir: string, slot?: string): Promise<ControlFile[]> {
  let names: string[];
  try {
    names = await readdir(stateDir);
  } catch {
    return [];
  }
  const files: ControlFile[] = [];
  for (const name of names.sort()) {
    if (!/^[a-z0-9_]+\.(all|capture|apply)\.\d+\.json$/.test(name)) continue;
    const file = await readControlFile(join(stateDir, name));
    if (file && (slot === undefined || file.slot === slot)) files.push(file);
  }
  return files;
}

async function readControlFile(path: string): Promise<ControlFile | null> {
  try {
    const stat = await lstat(path);
    // Someone else's file could lead us, and what we ask, to them. Root's is trusted: who is root needs no trick.
    const owner = process.getuid?.();
    const trusted = owner === undefined || owner === 0 || stat.uid === owner || stat.uid === 0;
    if (!stat.isFile() || stat.size > BYTES_MAX || !trusted) return null;
    return { path, ...contents.parse(JSON.parse(await readFile(path, 'utf8'))) };
  } catch {
    // Gone meanwhile, unreadable for us, or not one of ours.
    return null;
  }
}

/** False where the process has certainly ended. One on another machine cannot be asked, and counts as alive. */
export function isAlive(file: ControlFile): boolean {
  if (file.host !== hostname()) return true;
  try {
    process.kill(file.pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
