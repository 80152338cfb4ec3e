import { WaltideError } from '../errors.ts';

/** Callers that are counted at once: past it the one that began first is forgotten. */
const CALLERS_MAX = 10_000;

interface Window {
  readonly endsAtMs: number;
  count: number;
}

/** Fixed windows: at most `max` per caller and window. Takes no time of anyone's and bounded memory. */
export class RateLimiter {
  readonly #max: number;
  readonly #windowMs: number;
  readonly #now: () => number;
  readonly #windows = new Map<string, Window>();

  constructor(max: number, windowMs: number, now: () => number = Date.now) {
    this.#max = max;
    this.#windowMs = windowMs;
    this.#now = now;
  }

  /** How long `caller` has to wait, in milliseconds; 0 where one more is allowed. */
  waitMs(caller: string): number {
    const window = this.#windows.get(caller);
    return window && window.count >= this.#max ? Math.max(0, window.endsAtMs - this.#now()) : 0;
  }

  count(caller: string): void {
    const window = this.#windows.get(caller);
    if (window && window.endsAtMs > this.#now()) {
      window.count++;
      return;
    }
    this.#windows.delete(caller);
    this.#windows.set(caller, { endsAtMs: this.#now() + this.#windowMs, count: 1 });
    for (const first of this.#windows.keys()) if (this.#windows.size > CALLERS_MAX) this.#windows.delete(first);
  }
}

/** 429, with when it will do again. */
export class RateLimitedError extends WaltideError {
  readonly retryAfterSeconds: number;

  constructor(message: string, waitMs: number) {
    const retryAfterSeconds = Math.ceil(waitMs / 1000);
    super('RATE_LIMITED', message, `Try again in ${retryAfterSeconds} s; api.rateLimit says how much is allowed.`);
    this.retryAfterSeconds = retryAfterSeconds;
  }
}
