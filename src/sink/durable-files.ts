import { open, readdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { messageOf, WaltideError } from '../errors.ts';

/** Resolves = what the file or directory holds survives a power cut. */
export async function syncPath(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** The directory in which `path` is: renames are durable after it. */
export function syncParent(path: string): Promise<void> {
  return syncPath(dirname(path));
}

export interface FoundFile {
  /** Relative to the directory, with slashes. */
  readonly path: string;
  readonly bytes: number;
}

/** Every file below `directory`, by name, each synced along with its directories. */
export async function syncTree(directory: string): Promise<FoundFile[]> {
  const found: FoundFile[] = [];
  const visit = async (below: string): Promise<void> => {
    for (const entry of await readdir(join(directory, below), { withFileTypes: true })) {
      const path = below === '' ? entry.name : `${below}/${entry.name}`;
      if (entry.isDirectory()) await visit(path);
      else {
        await syncPath(join(directory, path));
        found.push({ path, bytes: (await stat(join(directory, path))).size });
      }
    }
    await syncPath(join(directory, below));
  };
  await visit('');
  return found.sort((a, b) => (a.path < b.path ? -1 : 1));
}

const NO_SPACE = ['ENOSPC', 'EDQUOT', 'EFBIG'];

/** An error of the file system as one for people; SINK_FULL where the disk is. */
export function fileError(doing: string, error: unknown): WaltideError {
  if (error instanceof WaltideError) return error;
  const code = (error as NodeJS.ErrnoException | null)?.code ?? '';
  if (NO_SPACE.includes(code))
    return new WaltideError('SINK_FULL', `${doing}: no space left`, 'Free space there, then do it again.', {
      cause: error,
    });
  const help = 'See that the path can be written by the user that Waltide runs as, then do it again.';
  return new WaltideError('SINK_FILES', `${doing}: ${messageOf(error)}`, help, { cause: error });
}
