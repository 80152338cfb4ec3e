import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { runCli } from '../../src/cli/cli.ts';
import { CliContext } from '../../src/cli/context.ts';
import type { ConfigInput } from '../../src/config/schema.ts';

const MAIN = resolve(import.meta.dirname, '../../src/main.ts');
const TSX = resolve(import.meta.dirname, '../../node_modules/tsx/dist/esm/index.mjs');

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A folder with a `waltide.json`; metrics are off unless `config` says otherwise. */
export async function makeProject(config: ConfigInput): Promise<{ dir: string; remove(): Promise<void> }> {
  const dir = await mkdtemp(join(tmpdir(), 'waltide-cli-'));
  await writeFile(join(dir, 'waltide.json'), JSON.stringify({ metrics: { enabled: false }, ...config }));
  return { dir, remove: () => rm(dir, { recursive: true, force: true }) };
}

/** Runs a command line inside this process; `cwd` is where it looks for its configuration. */
export async function cli(cwd: string, ...argv: string[]): Promise<Outcome> {
  const out = { stdout: '', stderr: '' };
  const sink = (key: 'stdout' | 'stderr') => ({
    write: (text: string) => {
      out[key] += text;
      return true;
    },
    once: () => undefined,
  });
  const context = new CliContext({
    stdout: sink('stdout'),
    stderr: sink('stderr'),
    env: { PATH: process.env.PATH },
    cwd,
  });
  const code = await runCli(['--log-level', 'fatal', ...argv], context);
  return { code, ...out };
}

export interface Running {
  readonly child: ChildProcess;
  readonly output: { stdout: string; stderr: string };
  /** Resolves once either stream has matched. */
  until(pattern: RegExp, timeoutMs?: number): Promise<void>;
  /** Resolves with what it left behind. */
  end(): Promise<Outcome & { signal: NodeJS.Signals | null }>;
}

/** Runs a command line as a process of its own, as users do. */
export function start(cwd: string, ...argv: string[]): Running {
  return startWith({}, cwd, ...argv);
}

/** As `start`, with variables of the environment. */
export function startWith(env: NodeJS.ProcessEnv, cwd: string, ...argv: string[]): Running {
  const child = spawn(process.execPath, ['--import', TSX, MAIN, ...argv], {
    cwd,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env.PATH, TMPDIR: process.env.TMPDIR, ...env },
  });
  const output = { stdout: '', stderr: '' };
  for (const key of ['stdout', 'stderr'] as const)
    child[key]!.setEncoding('utf8').on('data', (text: string) => {
      output[key] += text;
    });
  const closed = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
  let ended = false;
  closed.then(
    () => (ended = true),
    () => (ended = true),
  );
  return {
    child,
    output,
    async until(pattern, timeoutMs = 90_000) {
      const deadline = Date.now() + timeoutMs;
      while (!pattern.test(output.stdout) && !pattern.test(output.stderr)) {
        // Not its exit: what it said last may still be on the way.
        if (Date.now() > deadline || ended)
          throw new Error(`${pattern} did not come:\n${output.stdout}\n${output.stderr}`);
        await new Promise((wake) => setTimeout(wake, 20));
      }
    },
    async end() {
      const [code, signal] = await closed;
      return { code: code ?? -1, signal, ...output };
    },
  };
}
