import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DuckDBInstance } from '@duckdb/node-api';
import { type Finished, startWaltide, type WaltideProcess, waltide } from '../../test/support/waltide-process.ts';
import { compareArchive, type TableCount } from './compare.ts';

const CONFIG = fileURLToPath(new URL('waltide.yaml', import.meta.url));

/** Tables that `waltide validate` compares by itself: project_pages leaves as a function of ours makes it. */
export const PROVEN = ['public.users', 'public.projects', 'public.domains', 'public.pages_v2'] as const;

/** An archive's Waltide: the example's own configuration under the variables of one deployment, as an operator has it. */
export class Deployment {
  readonly folder = mkdtempSync(join(tmpdir(), 'web-archive-'));
  readonly file = join(this.folder, 'archive.duckdb');
  readonly key = 'a key of the example, of 32 characters or more';
  readonly env: Record<string, string>;
  readonly #url: string;

  constructor(url: string, slot: string, env: Readonly<Record<string, string>> = {}) {
    this.#url = url;
    this.env = {
      DATABASE_URL: url,
      WEB_ARCHIVE_PROTECT_KEY: this.key,
      CDC_REPLICATION_SLOT_NAME: slot,
      DUCKDB_DATABASE_PATH: this.file,
      WEB_ARCHIVE_API_PORT: '0',
      WEB_ARCHIVE_METRICS_PORT: '0',
      WEB_ARCHIVE_EXPORT_DIR: join(this.folder, 'exports'),
      WEB_ARCHIVE_BACKUP_DIR: join(this.folder, 'backups'),
      // Not of the old deployment: so that tests share no folder.
      WALTIDE_STATE_DIR: join(this.folder, 'state'),
      ...env,
    };
  }

  /** `waltide …` to its end. */
  waltide(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Finished> {
    return waltide([...args, '--config', CONFIG], { ...this.env, ...env });
  }

  /** As `waltide`; fails with what it said where its exit code is not 0. */
  async ok(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.waltide(args);
    if (code !== 0) throw new Error(`waltide ${args.join(' ')} ended with ${code}:\n${stdout}\n${stderr}`);
    return stdout;
  }

  start(env: Readonly<Record<string, string>> = {}): WaltideProcess {
    return startWaltide(['run', '--config', CONFIG], { ...this.env, ...env });
  }

  /** Waits until everything committed by now is in the sink of the running process. */
  caughtUp(): Promise<string> {
    return this.ok('wait', '--sink', 'archive', '--timeout', '120s');
  }

  /** Once no process holds the file. */
  async compare(): Promise<{ differences: string[]; tables: TableCount[] }> {
    const instance = await DuckDBInstance.create(this.file, { access_mode: 'READ_ONLY' });
    const connection = await instance.connect();
    try {
      return await compareArchive(this.#url, connection, this.key);
    } finally {
      connection.closeSync();
      instance.closeSync();
    }
  }

  remove(): Promise<void> {
    return rm(this.folder, { recursive: true, force: true });
  }
}
