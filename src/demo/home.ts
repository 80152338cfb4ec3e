import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ConfigInput } from '../config/schema.ts';
import { locateBinaries, serverAccount, temporaryParent } from '../embedded/binaries.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../embedded/embedded-postgres.ts';
import { type Guard, startGuard } from '../embedded/guard.ts';
import type { Kept } from './events.ts';
import { PipelineProcess } from './pipeline-process.ts';

export const SLOT = 'waltide_demo';

/** Nothing here outlives the demo, so nothing has to outlive a power cut either. */
const THROWAWAY = { fsync: 'off', full_page_writes: 'off', max_wal_size: '2GB', checkpoint_timeout: '15min' };

/** Everything that the demo leaves on a machine while it runs: one folder, one server, one pipeline. */
export class Home {
  readonly folder: string;
  readonly #private: string;
  readonly #guard: Guard;
  readonly #keep: boolean;
  #starting: Promise<EmbeddedPostgres> | null = null;
  #pipeline: PipelineProcess | null = null;
  #closed = false;

  private constructor(folder: string, keep: boolean) {
    this.folder = folder;
    this.#private = join(folder, 'waltide');
    this.#keep = keep;
    this.#guard = startGuard(keep ? null : folder);
  }

  static async create(keep: boolean): Promise<Home> {
    const folder = await mkdtemp(join(await temporaryParent(await serverAccount()), 'waltide-demo-'));
    const home = new Home(folder, keep);
    // The account that runs PostgreSQL for root must get through to its own folder, and see no other.
    await chmod(folder, 0o711);
    await mkdir(home.#private, { mode: 0o700 });
    return home;
  }

  get duckdbFile(): string {
    return join(this.#private, 'shop.duckdb');
  }

  get configFile(): string {
    return join(this.#private, 'waltide.json');
  }

  startServer(): Promise<EmbeddedPostgres> {
    // Left to itself the server uses a folder that it removes even where this process is killed.
    const dir = this.#keep ? { dir: join(this.folder, 'postgres') } : {};
    this.#starting = startEmbeddedPostgres({ ...dir, settings: THROWAWAY });
    return this.#starting;
  }

  async startPipeline(url: string, program: readonly string[] | undefined): Promise<PipelineProcess> {
    const stateDir = join(this.#private, 'state');
    const config: ConfigInput = {
      source: {
        url: `${url}?sslmode=disable`,
        slot: SLOT,
        publication: SLOT,
        tables: ['public.*'],
        // So that "caught up" is known within a second once the workload rests.
        heartbeatIntervalMs: 1000,
      },
      sinks: [{ name: 'shop', type: 'duckdb', path: this.duckdbFile }],
      stateDir,
      metrics: { enabled: false },
      log: { level: 'info', format: 'pretty' },
    };
    await writeFile(this.configFile, `${JSON.stringify(config, null, 2)}\n`, { mode: 0o600 });
    this.#pipeline = new PipelineProcess({
      program,
      configFile: this.configFile,
      stateDir,
      slot: SLOT,
      logFile: join(this.#private, 'pipeline.log'),
      cwd: this.#private,
      guard: this.#guard,
    });
    if (this.#closed) await this.#pipeline.close();
    await this.#pipeline.start();
    return this.#pipeline;
  }

  async describe(server: EmbeddedPostgres): Promise<Kept> {
    const account = await serverAccount();
    const { postgres } = await locateBinaries(account);
    const as = account ? `runuser -u ${account.name} -- ` : '';
    const settings = `-p ${server.port} -c wal_level=logical -c listen_addresses=127.0.0.1 -c unix_socket_directories=`;
    return {
      folder: this.folder,
      url: server.url,
      duckdbFile: this.duckdbFile,
      configFile: this.configFile,
      startCommand: `${as}${quote(postgres)} -D ${quote(server.dataDir)} ${settings}`,
    };
  }

  /** Ends every process and removes the folder (unless kept). Safe at any moment, also while the server still starts. */
  async close(): Promise<void> {
    // Whatever happened before, it must not go on: the databases are about to vanish.
    this.#closed = true;
    await this.#pipeline?.close();
    const server = await this.#starting?.catch(() => null);
    await server?.stop(this.#keep ? 'fast' : 'immediate');
    await this.#guard.end();
    if (!this.#keep) await rm(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

function quote(path: string): string {
  return /^[\w./@-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}
