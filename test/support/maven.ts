import { execFile, execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

/** Git-ignored; shared by tests and benchmarks, and kept between runs. */
export const CACHE_DIR = resolve(import.meta.dirname, '../../.cache');
const JAVA_MAJOR_MIN = 17;
/** 100 MB over a slow line. */
const DOWNLOAD_TIMEOUT_MS = 900_000;
const LOCK_POLL_MS = 200;

export interface Artifact {
  readonly group: string;
  readonly artifact: string;
  readonly version: string;
}

/** Whether servers from Maven Central can run here: `why` names what is missing. */
export function haveMaven(): { ok: boolean; why: string } {
  const java = output('java', ['-version']);
  const major = Number(/version "(\d+)/.exec(java)?.[1] ?? 0);
  if (major < JAVA_MAJOR_MIN) {
    return {
      ok: false,
      why: java ? `Java ${JAVA_MAJOR_MIN} or later is needed, found ${major}` : 'java is not on PATH',
    };
  }
  if (!output('mvn', ['-version'])) return { ok: false, why: 'mvn is not on PATH' };
  return { ok: true, why: '' };
}

/**
 * The folder holding `artifacts` and all they depend on, as `.cache/<name>`. Fetched on first use; several processes
 * may ask at once: one fetches into a folder of its own and renames it, so that nobody sees half of it.
 */
export async function mavenLibraries(name: string, artifacts: readonly Artifact[]): Promise<string> {
  const target = join(CACHE_DIR, name);
  if (existsSync(target)) return target;
  await mkdir(CACHE_DIR, { recursive: true });
  const unlock = await lock(`${target}.lock`, () => existsSync(target));
  if (!unlock) return target;
  const work = await mkdtemp(`${target}.part-`);
  try {
    const libraries = join(work, 'libs');
    await writeFile(join(work, 'pom.xml'), pom(artifacts));
    const goal = ['dependency:copy-dependencies', '-DincludeScope=runtime', `-DoutputDirectory=${libraries}`];
    await promisify(execFile)('mvn', ['-q', '-B', ...goal], { cwd: work, timeout: DOWNLOAD_TIMEOUT_MS });
    // The loser of a race that the lock did not prevent finds the target there, equal to its own.
    if (!existsSync(target)) await rename(libraries, target);
    return target;
  } finally {
    await rm(work, { recursive: true, force: true });
    await unlock();
  }
}

function output(command: string, args: string[]): string {
  try {
    // `java -version` answers on standard error.
    return execFileSync('/bin/sh', ['-c', '"$0" "$@" 2>&1', command, ...args], { encoding: 'utf8' });
  } catch {
    return '';
  }
}

function pom(artifacts: readonly Artifact[]): string {
  const dependencies = artifacts.map(
    ({ group, artifact, version }) =>
      `<dependency><groupId>${group}</groupId><artifactId>${artifact}</artifactId><version>${version}</version></dependency>`,
  );
  return `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>waltide.test</groupId><artifactId>servers</artifactId><version>1</version>
<dependencies>${dependencies.join('\n')}</dependencies></project>\n`;
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
