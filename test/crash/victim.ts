import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Config } from '../../src/config/schema.ts';
import type { Role } from '../../src/pipeline/status.ts';

const CHILD = fileURLToPath(new URL('./child.ts', import.meta.url));
const BUILT = fileURLToPath(new URL('../../dist/index.js', import.meta.url));

export interface ChildOptions {
  readonly config: Config;
  readonly role: Role;
  readonly ledger: string;
  readonly recopy: boolean;
  /** `name@times`: where it kills itself. */
  readonly failpoint: string | null;
}

interface End {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
}

const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** A pipeline in a process of its own, which may be killed. */
export function startChild(options: ChildOptions): Child {
  if (!existsSync(BUILT)) throw new Error('dist/ is missing: run npm run build first');
  return new Child(options);
}

export class Child {
  readonly role: Role;
  readonly ended: Promise<End>;
  /** Once it has opened everything, or has ended. */
  readonly open: Promise<unknown>;
  readonly #process: ChildProcess;
  #stderr = '';

  constructor({ config, role, ledger, recopy, failpoint }: ChildOptions) {
    this.role = role;
    const ours = Object.entries(process.env).filter(([name]) => !name.startsWith('WALTIDE_'));
    this.#process = spawn(
      process.execPath,
      ['--import', 'tsx', CHILD, JSON.stringify(config), role, ledger, recopy ? 'recopy' : ''],
      {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...Object.fromEntries(ours), ...(failpoint ? { WALTIDE_FAILPOINT: failpoint } : {}) },
      },
    );
    running.add(this.#process);
    this.#process.stderr!.on('data', (chunk: Buffer) => (this.#stderr += chunk.toString()));
    const opened = new Promise((resolve) => this.#process.stdout!.once('data', resolve));
    this.ended = new Promise((resolve) => {
      this.#process.on('close', (code, signal) => {
        running.delete(this.#process);
        resolve({ code, signal, stderr: this.#stderr });
      });
    });
    this.open = Promise.race([opened, this.ended]);
  }

  get running(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** Throws with what it said where it ended by itself. */
  expectRunning(): void {
    if (!this.running) throw new Error(`${this.role} ended by itself: ${this.#stderr}`);
  }

  async kill(): Promise<void> {
    if (this.running) this.#process.kill('SIGKILL');
    await this.ended;
  }

  /** In order; throws where that does not end well. */
  async stop(): Promise<void> {
    this.#process.kill('SIGTERM');
    const { code, signal, stderr } = await this.ended;
    // Before its handler is there, it dies of the signal.
    if (code !== 0 && signal !== 'SIGTERM') throw new Error(`${this.role} did not stop in order: ${stderr}`);
  }
}
