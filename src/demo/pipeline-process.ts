import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { findProcesses } from '../api/control-client.ts';
import type { Guard } from '../embedded/guard.ts';
import { WaltideError } from '../errors.ts';
import type { PipelineStatus } from '../pipeline/status.ts';

/** Draining what is in flight, and closing the file; beyond it something hangs. */
const STOP_TIMEOUT_MS = 30_000;
const POLL_MS = 25;
const LOG_LINES_SHOWN = 12;

export interface PipelineProcessOptions {
  readonly program?: readonly string[] | undefined;
  readonly configFile: string;
  readonly stateDir: string;
  readonly slot: string;
  readonly logFile: string;
  readonly cwd: string;
  /** Ends the process even where this one is killed. */
  readonly guard: Guard;
}

/** `waltide run` in a process of its own, as a user would run it: it can be killed, and is asked as `waltide status` asks. */
export class PipelineProcess {
  readonly #options: PipelineProcessOptions;
  #child: ChildProcess | null = null;
  #expected = false;
  #closed = false;

  constructor(options: PipelineProcessOptions) {
    this.#options = options;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  async start(): Promise<void> {
    const { configFile, logFile, cwd, guard } = this.#options;
    const [command, ...args] = this.#options.program ?? thisProgram();
    const log = await open(logFile, 'a', 0o600);
    if (this.#closed) {
      await log.close();
      throw new Error('the demo is over');
    }
    // detached: Ctrl-C goes to the whole foreground group of a terminal, and we decide when the pipeline stops.
    const child = spawn(command!, [...args, 'run', '--config', configFile], {
      cwd,
      env: cleanEnvironment(process.env),
      detached: process.platform !== 'win32',
      windowsHide: true,
      stdio: ['ignore', log.fd, log.fd],
    });
    this.#child = child;
    this.#expected = false;
    guard.watch(child.pid ?? null);
    child.on('exit', () => this.#child === child && guard.watch(null));
    child.on('error', () => {}); // Shows as a process without a pid; status() tells.
    await log.close();
  }

  /** Null while it does not answer yet. Rejects with its last words where it has ended by itself. */
  async status(): Promise<PipelineStatus | null> {
    const { stateDir, slot } = this.#options;
    const { running } = await findProcesses(stateDir, slot);
    const status = running.find(({ file }) => file.pid === this.pid)?.status ?? null;
    if (!status && this.#ended && !this.#expected) throw await this.#failure();
    return status;
  }

  /** Asks until `ready` says yes. Rejects after `timeoutMs`. */
  async until(
    ready: (status: PipelineStatus) => boolean,
    what: string,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<PipelineStatus> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const status = await this.status();
      if (status && ready(status)) return status;
      if (Date.now() > deadline)
        throw await this.#failure(`${what} took longer than ${Math.round(timeoutMs / 1000)} s`);
      await sleep(POLL_MS, undefined, { signal });
    }
  }

  /** SIGKILL: no handler runs, nothing is flushed. Resolves = the process is gone. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  /** Kills it and starts no other, whatever is still under way. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.kill();
  }

  /** SIGTERM: drains in order. Rejects where it does not end well. Harmless when it is down. */
  async stop(): Promise<void> {
    if (this.#ended) return;
    await this.#end('SIGTERM');
    if (this.#child?.exitCode !== 0) throw await this.#failure('the pipeline did not stop in order');
  }

  get #ended(): boolean {
    const child = this.#child;
    return !child || child.pid === undefined || child.exitCode !== null || child.signalCode !== null;
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    this.#expected = true;
    const child = this.#child;
    if (!child || this.#ended) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await exited;
    clearTimeout(timer);
  }

  async #failure(what?: string): Promise<WaltideError> {
    const child = this.#child;
    const how = child?.signalCode ? `by ${child.signalCode}` : `with exit code ${child?.exitCode ?? 'unknown'}`;
    const log = await readFile(this.#options.logFile, 'utf8').catch(() => '');
    const last = log.trim().split('\n').slice(-LOG_LINES_SHOWN).join('\n');
    const message = `${what ?? `the pipeline's process ended ${how}`}. Its last lines:\n${last || '(none)'}`;
    return new WaltideError('INTERNAL', message, 'Run `waltide demo --keep` to keep its whole log, and report it.');
  }
}

/** The sources where we run from sources (with tsx's loader), the built program elsewhere. */
function thisProgram(): string[] {
  const main = new URL(import.meta.url.endsWith('.ts') ? '../main.ts' : '../main.js', import.meta.url);
  // Two processes cannot share a debugger's port.
  const nodeOptions = process.execArgv.filter((option) => !option.startsWith('--inspect'));
  return [process.execPath, ...nodeOptions, fileURLToPath(main)];
}

/** WALTIDE_… would override the demo's configuration, and so lead it to someone's real database; PG… likewise. */
export function cleanEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !/^(WALTIDE_|PG)/i.test(name)));
}
