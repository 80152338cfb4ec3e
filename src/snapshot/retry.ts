import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf, WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';

const BACKOFF_FIRST_MS = 200;
const BACKOFF_MAX_MS = 10_000;

/**
 * Tries until it works: a lost connection stops no snapshot. Rejects with what a person must mend, and with the
 * signal's reason once it aborts.
 */
export async function retrying<T>(what: string, log: Log, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  for (let backoffMs = BACKOFF_FIRST_MS; ; backoffMs = Math.min(backoffMs * 2, BACKOFF_MAX_MS)) {
    signal.throwIfAborted();
    try {
      return await work();
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof WaltideError) || !error.retry) throw error;
      log.warn({ retryInMs: backoffMs }, `${what}: ${messageOf(error)}; trying again`);
      await sleep(backoffMs, undefined, { signal });
    }
  }
}
