import { setTimeout as sleep } from 'node:timers/promises';

/** Lets through so many rows a second, on average over the run. */
export class RateLimit {
  readonly #rowsPerSecondMax: number | null;
  #freeAt = 0;

  constructor(rowsPerSecondMax: number | null) {
    this.#rowsPerSecondMax = rowsPerSecondMax;
  }

  /** Waits until the rows of before have had their time. */
  async room(signal: AbortSignal): Promise<void> {
    const waitMs = this.#freeAt - performance.now();
    if (waitMs > 0) await sleep(waitMs, undefined, { signal });
  }

  count(rows: number): void {
    if (this.#rowsPerSecondMax === null) return;
    this.#freeAt = Math.max(performance.now(), this.#freeAt) + (rows * 1000) / this.#rowsPerSecondMax;
  }
}
