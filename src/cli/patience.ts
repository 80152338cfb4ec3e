import { isSlow } from '../api/client.ts';
import { call } from '../api/control-client.ts';
import { type ControlFile, isAlive } from '../api/control-file.ts';
import type { CliContext } from './context.ts';

const TOLD_EVERY_MS = 10_000;
const ASK_MS = 5000;

/** Says, now and then, that a process is waited for that lives and does not answer. */
export class Patience {
  readonly #context: CliContext;
  #since: number | null = null;
  #toldAt = Number.NEGATIVE_INFINITY;

  constructor(context: CliContext) {
    this.#context = context;
  }

  /** It has not answered for as long as `waitedMs`, at least. */
  silent({ pid }: ControlFile, waitedMs = 0): void {
    const now = performance.now();
    this.#since ??= now - waitedMs;
    if (now - this.#toldAt < TOLD_EVERY_MS) return;
    this.#toldAt = now;
    this.#context.note(
      `  the process with pid ${pid} does not answer for ${Math.round((now - this.#since) / 1000)} s; it lives, waiting`,
    );
  }

  heard(): void {
    this.#since = null;
    this.#toldAt = Number.NEGATIVE_INFINITY;
  }
}

/** A GET that is asked again while the process lives and is only slow; rejects as `call` does, and once it is interrupted. */
export async function askPatiently<T>(context: CliContext, file: ControlFile, path: string): Promise<T> {
  const patience = new Patience(context);
  for (;;) {
    try {
      return await call<T>(file, 'GET', path, null, ASK_MS);
    } catch (error) {
      if (!isSlow(error) || !isAlive(file) || context.signal.aborted) throw error;
      patience.silent(file, ASK_MS);
    }
  }
}
