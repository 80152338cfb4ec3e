import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, open, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Git-ignored; shared by tests and benchmarks, and kept between runs. */
export const CACHE_DIR = resolve(import.meta.dirname, '../../.cache');
const LOCK_POLL_MS = 200;

/**
 * The folder `.cache/<name>`, made on first use by `make`, which gets a folder to work in and gives the one to keep.
 * Several processes may ask at once: one makes it and renames it, so that nobody sees half of it.
 */
export async function cached(name: string, make: (work: string) => Promise<string>): Promise<string> {
  const target = join(CACHE_DIR, name);
  if (existsSync(target)) return target;
  await mkdir(dirname(target), { recursive: true });
  const unlock = await lock(`${target}.lock`, () => existsSync(target));
  if (!unlock) return target;
  const work = await mkdtemp(`${target}.part-`);
  try {
    const made = await make(work);
    // The loser of a race that the lock did not prevent finds the target there, equal to its own.
    if (!existsSync(target)) await rename(made, target);
    return target;
  } finally {
    await rm(work, { recursive: true, force: true });
    await unlock();
  }
}

/** Null = `done` came true while another process held the lock. A dead holder's lock is taken over. */
async function lock(path: string, done: () => boolean): Promise<(() => Promise<void>) | null> {
  for (;;) {
    if (done()) return null;
    try {
      const file = await open(path, 'wx');
      await file.writeFile(String(process.pid));
      await file.close();
      return () => rm(path, { force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    await sleep(LOCK_POLL_MS);
    const holder = Number(await readFile(path, 'utf8').catch(() => ''));
    if (holder > 0 && !alive(holder)) await rm(path, { force: true });
  }
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
