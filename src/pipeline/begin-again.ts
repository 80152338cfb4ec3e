import { setTimeout as sleep } from 'node:timers/promises';
import { WaltideError } from '../errors.ts';
import type { SourceIdentity } from '../event/offset.ts';
import type { Log } from '../log.ts';
import type { Sink, SinkState } from '../sink/sink.ts';
import { waitForAbort } from './wait.ts';

/** Why a pipeline closes everything and opens it again, and what is different then. */
export interface BeginAgain {
  /** In words, for the log. */
  readonly reason: string;
  /** With a new slot, from which every table is filled again. */
  readonly recopy?: boolean;
  /** What to end with instead, once everything is closed. */
  readonly failure?: WaltideError;
  /** Called for each sink once it is open and before it goes on; resolves with its state as it is then. */
  readonly onOpen?: (sink: Sink, state: SinkState, identity: SourceIdentity) => Promise<SinkState>;
}

const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 30_000;

/**
 * Whatever was open once may go away for a while: it is waited for. Before that, a person is told at once. What is final
 * is told too, but does not end a run without an end: whoever keeps processes up would start it over and over again.
 */
export class Patience {
  readonly #log: Log;
  /** Null until everything was open once. */
  #backoffMs: number | null = null;
  /** What nothing but a person's doing and a new start can mend. */
  failure: WaltideError | null = null;

  constructor(log: Log) {
    this.#log = log;
  }

  opened(): void {
    this.#backoffMs = BACKOFF_FIRST_MS;
  }

  /**
   * Resolves when another attempt is due, or `signal` aborts; rejects with `error` where none would help, `endless` where
   * it is final only once `signal` aborts.
   */
  async outwait(error: unknown, signal: AbortSignal, endless: boolean): Promise<void> {
    if (endless && error instanceof WaltideError && error.final) {
      this.failure = error;
      this.#log.error({ code: error.code }, `standing still: ${error.message}. ${error.help}`);
      await waitForAbort(signal);
    }
    const retryInMs = this.#backoffMs;
    if (retryInMs === null || signal.aborted || !(error instanceof WaltideError) || !error.retry) throw error;
    this.#log.warn({ retryInMs }, `${error.message}; trying again. ${error.help}`);
    this.#backoffMs = Math.min(retryInMs * 2, BACKOFF_MAX_MS);
    await sleep(retryInMs, undefined, { signal }).catch(() => {});
  }
}
