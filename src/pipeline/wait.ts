import { WaltideError } from '../errors.ts';

const LOOK_MS = 100;

export function waitForAbort(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

/** Runs `work` with a signal that aborts after `ms`, or as soon as `vain` says that waiting longer gains nothing. */
export async function within<T>(
  ms: number,
  vain: () => boolean,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const bound = new AbortController();
  const timer = setTimeout(() => bound.abort(), ms);
  const looking = setInterval(() => vain() && bound.abort(), LOOK_MS);
  try {
    return await work(bound.signal);
  } finally {
    clearTimeout(timer);
    clearInterval(looking);
  }
}

export function busy(message: string): WaltideError {
  return new WaltideError('NOT_RUNNING', message, 'Try again in a moment; `waltide status` shows the state.');
}
