import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ConfigInput } from '../../src/config/schema.ts';

const MAIN = fileURLToPath(new URL('../../dist/waltide.cjs', import.meta.url));

/** A folder of the test's own with a waltide.json in it. */
export function writeConfig(config: ConfigInput): { folder: string; file: string } {
  const folder = mkdtempSync(join(tmpdir(), 'waltide-test-'));
  const file = join(folder, 'waltide.json');
  writeFileSync(file, JSON.stringify({ metrics: { enabled: false }, ...config }));
  return { folder, file };
}

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface WaltideProcess {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
  /** Resolves with the match once stderr has one; rejects when the process ends first. */
  saw(pattern: RegExp): Promise<RegExpExecArray>;
}

const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** WALTIDE_* variables of a test run are no configuration of the process under test. */
function withoutOurs(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('WALTIDE_')));
}

/** Starts the built CLI as a user would: a process of its own, which can be killed. */
export function startWaltide(args: readonly string[], env: NodeJS.ProcessEnv = {}): WaltideProcess {
  if (!existsSync(MAIN)) throw new Error('dist/ is missing: run npm run build first');
  const child = spawn(process.execPath, [MAIN, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...withoutOurs(process.env), ...env },
  });
  running.add(child);
  let stdout = '';
  let stderr = '';
  let ended = false;
  const watchers = new Set<() => void>();
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
    for (const watch of watchers) watch();
  });
  const finished = new Promise<Finished>((resolve) => {
    child.on('close', (code, signal) => {
      running.delete(child);
      ended = true;
      resolve({ code, signal, stdout, stderr });
      for (const watch of watchers) watch();
    });
  });
  const saw = (pattern: RegExp): Promise<RegExpExecArray> =>
    new Promise((resolve, reject) => {
      const watch = (): void => {
        const match = pattern.exec(stderr);
        if (match) resolve(match);
        // Not its exit: what it said last may still be on the way.
        else if (ended) reject(new Error(`ended before ${pattern}: ${stderr}`));
        else return;
        watchers.delete(watch);
      };
      watchers.add(watch);
      watch();
    });
  return { child, finished, saw };
}

/** Runs the built CLI to its end. */
export function waltide(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Finished> {
  return startWaltide(args, env).finished;
}
