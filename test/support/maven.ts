import { execFile, execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cached } from './cache.ts';

const JAVA_MAJOR_MIN = 17;
/** 100 MB over a slow line. */
const DOWNLOAD_TIMEOUT_MS = 900_000;

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

/** The folder holding `artifacts` and all they depend on, as `.cache/<name>`. Fetched on first use. */
export function mavenLibraries(name: string, artifacts: readonly Artifact[]): Promise<string> {
  return cached(name, async (work) => {
    const libraries = join(work, 'libs');
    await writeFile(join(work, 'pom.xml'), pom(artifacts));
    const goal = ['dependency:copy-dependencies', '-DincludeScope=runtime', `-DoutputDirectory=${libraries}`];
    await promisify(execFile)('mvn', ['-q', '-B', ...goal], { cwd: work, timeout: DOWNLOAD_TIMEOUT_MS });
    return libraries;
  });
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
