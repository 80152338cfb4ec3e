import { createHash, randomBytes } from 'node:crypto';
import { lstat, mkdir, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { messageOf, WaltideError } from '../errors.ts';
import { failpoint } from '../failpoint.ts';
import type { Log } from '../log.ts';
import { fileError, syncPath } from './durable-files.ts';
import type { ExportManifest, StoreOwner } from './upkeep.ts';

const MANIFEST = 'manifest.json';
const LATEST = 'latest';
const EXPORT_NAME = /^\d{4}-\d\d-\d\dT\d{6}\.\d{3}Z$/;

/** Exports that this process is writing: not to be taken for leftovers. */
const writing = new Set<string>();

/**
 * One export on its way into a directory of exports. It is written under a name of its own and renamed whole; `latest` is
 * a link that is exchanged afterwards. So whoever looks sees the last one or this one, and what a killed process left
 * behind is removed by the next, and nothing else is.
 */
export class ExportFolder {
  readonly #to: string;
  readonly #owner: StoreOwner;
  readonly #log: Log;
  /** Where the files are written. */
  readonly path: string;

  private constructor(to: string, owner: StoreOwner, log: Log) {
    this.#to = resolve(to);
    this.#owner = owner;
    this.#log = log;
    this.path = this.#hidden('new');
  }

  /** Creates the directory. Rejects with USAGE where it holds another sink's exports, or something else in place of `latest`. */
  static async begin(to: string, owner: StoreOwner, log: Log): Promise<ExportFolder> {
    const folder = new ExportFolder(to, owner, log);
    try {
      await mkdir(to, { recursive: true });
      await folder.#checkLatest();
      await folder.#removeLeftovers();
      await mkdir(folder.path);
    } catch (error) {
      throw fileError(`preparing ${to}`, error);
    }
    writing.add(folder.path);
    return folder;
  }

  /** Resolves with where the export is; durable. Removes what is beyond `keep`. */
  async publish(manifest: ExportManifest, keep: number): Promise<string> {
    try {
      await writeFile(join(this.path, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`, { flush: true });
      await syncPath(this.path);
      const name = manifest.exportedAt.replaceAll(':', '');
      const path = join(this.#to, name);
      failpoint('before-export-rename');
      await rename(this.path, path);
      await syncPath(this.#to);
      failpoint('after-export-rename');
      const link = this.#hidden('link');
      await symlink(name, link, 'dir');
      await rename(link, join(this.#to, LATEST));
      await syncPath(this.#to);
      await this.#prune(keep, name).catch((error: unknown) => {
        this.#log.warn(`removing old exports in ${this.#to}: ${messageOf(error)}`);
      });
      return path;
    } catch (error) {
      throw fileError(`writing the export in ${this.#to}`, error);
    } finally {
      writing.delete(this.path);
    }
  }

  /** Never rejects. */
  async discard(): Promise<void> {
    writing.delete(this.path);
    await rm(this.path, { recursive: true, force: true }).catch((error: unknown) => {
      this.#log.warn(`removing ${this.path}: ${messageOf(error)}`);
    });
  }

  #hidden(suffix: 'new' | 'link' | 'old'): string {
    return join(this.#to, `${this.#prefix}${randomBytes(4).toString('hex')}.${suffix}`);
  }

  get #prefix(): string {
    const { sink, systemIdentifier, database, slot } = this.#owner;
    const text = JSON.stringify([sink, systemIdentifier, database, slot]);
    return `.waltide-${createHash('sha256').update(text).digest('hex').slice(0, 12)}-`;
  }

  async #checkLatest(): Promise<void> {
    const path = join(this.#to, LATEST);
    const found = await lstat(path).catch(() => null);
    if (!found) return;
    if (!found.isSymbolicLink())
      throw new WaltideError('USAGE', `${path} is no link of an export`, 'Export to a directory of its own.');
    const manifest = await readManifest(path);
    if (manifest && !this.#isOurs(manifest)) {
      const { sink, slot } = manifest.owner;
      const message = `${this.#to} holds exports of sink "${sink}" of slot "${slot}"`;
      throw new WaltideError('USAGE', message, 'Give each sink a directory of its own.');
    }
  }

  #isOurs({ owner }: ExportManifest): boolean {
    const { sink, systemIdentifier, database, slot } = this.#owner;
    return (
      owner.sink === sink &&
      owner.systemIdentifier === systemIdentifier &&
      owner.database === database &&
      owner.slot === slot
    );
  }

  async #removeLeftovers(): Promise<void> {
    for (const name of await readdir(this.#to)) {
      const path = join(this.#to, name);
      if (!name.startsWith(this.#prefix) || writing.has(path)) continue;
      await rm(path, { recursive: true, force: true });
      this.#log.info({ path }, 'removed what an interrupted export had left');
    }
  }

  /** Renamed before it is removed: nobody sees half of one. */
  async #prune(keep: number, newest: string): Promise<void> {
    const names = (await readdir(this.#to)).filter((name) => EXPORT_NAME.test(name) && name !== newest);
    const ours: string[] = [];
    for (const name of names) {
      const manifest = await readManifest(join(this.#to, name));
      if (manifest && this.#isOurs(manifest)) ours.push(name);
    }
    for (const name of ours
      .sort()
      .reverse()
      .slice(Math.max(0, keep - 1))) {
      const old = this.#hidden('old');
      await rename(join(this.#to, name), old);
      await rm(old, { recursive: true, force: true });
    }
  }
}

/** Null where there is none that can be read. */
async function readManifest(folder: string): Promise<ExportManifest | null> {
  try {
    const manifest = JSON.parse(await readFile(join(folder, MANIFEST), 'utf8')) as Partial<ExportManifest>;
    return manifest.format === 'waltide-export' && manifest.owner ? (manifest as ExportManifest) : null;
  } catch {
    return null;
  }
}

/** A name of PostgreSQL as one part of a path, whatever it holds: `..`, slashes and dots are spelt out. */
export function pathPart(name: string): string {
  return encodeURIComponent(name).replace(/[.!'()*~]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}
