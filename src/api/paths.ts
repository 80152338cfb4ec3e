import { mkdir, realpath } from 'node:fs/promises';
import { dirname, isAbsolute, join, sep } from 'node:path';
import { messageOf, WaltideError } from '../errors.ts';
import type { Deps } from './route.ts';

/**
 * Where a caller may write: anywhere on the control address, whose caller is the user that Waltide runs as, and below
 * `api.exportDir` or `api.backupDir` for all others, whatever links are there. Rejects with FORBIDDEN or USAGE.
 */
export async function writablePath(
  { config, local = false }: Pick<Deps, 'config' | 'local'>,
  key: 'exportDir' | 'backupDir',
  asked: string,
): Promise<string> {
  if (local && isAbsolute(asked)) return asked;
  const dir = config.api[key];
  if (dir === undefined)
    throw new WaltideError('FORBIDDEN', `api.${key} is not set, so callers may not write files`, `Set api.${key}.`);
  const parts = asked.split(/[\\/]/);
  if (isAbsolute(asked) || asked.includes('\0') || parts.some((part) => part === '' || part === '.' || part === '..'))
    throw new WaltideError('USAGE', '`to` must be a path below the directory, without . and ..', 'Such as "daily".');
  const path = join(dir, ...parts);
  try {
    await mkdir(dir, { recursive: true });
    const root = await realpath(dir);
    const real = await realPart(path);
    if (real === root || real.startsWith(root + sep)) return path;
  } catch (error) {
    throw new WaltideError('SINK_FILES', `api.${key}: ${messageOf(error)}`, 'See that the directory can be written.');
  }
  throw new WaltideError('FORBIDDEN', '`to` leads out of the directory by a link', 'Name another path below it.');
}

/** What of the path is there, without links. */
async function realPart(path: string): Promise<string> {
  for (let at = path; ; at = dirname(at)) {
    try {
      return await realpath(at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || at === dirname(at)) throw error;
    }
  }
}
