import { CircuitState, ConsecutiveBreaker, circuitBreaker, handleAll } from 'cockatiel';
import type { BreakerConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';

/** closed = the sink is used. open = it failed so often that it is left alone for a while. half-open = one attempt tells. */
export type BreakerState = 'closed' | 'open' | 'half-open';

const STATES: Readonly<Record<CircuitState, BreakerState>> = {
  [CircuitState.Closed]: 'closed',
  [CircuitState.Open]: 'open',
  [CircuitState.Isolated]: 'open',
  [CircuitState.HalfOpen]: 'half-open',
};

type Outcome<T> = { readonly value: T } | { readonly error: unknown };

/**
 * Keeps a store that is down from being asked again and again. Only what may heal by itself counts as a failure: what a
 * sink refuses says that it is up.
 */
export class Breaker {
  readonly #openMs: number;
  readonly #policy;
  #openedAt = 0;

  constructor({ failuresMax, openMs }: BreakerConfig, onChange: (state: BreakerState) => void) {
    this.#openMs = openMs;
    this.#policy = circuitBreaker(handleAll, { halfOpenAfter: openMs, breaker: new ConsecutiveBreaker(failuresMax) });
    this.#policy.onStateChange((state) => {
      if (state === CircuitState.Open) this.#openedAt = Date.now();
      onChange(STATES[state]);
    });
  }

  get state(): BreakerState {
    return STATES[this.#policy.state];
  }

  /** How long the sink is to be left alone, in milliseconds; null where it is not open. */
  get waitMs(): number | null {
    if (this.state !== 'open') return null;
    // One more, since its clock counts whole milliseconds.
    return Math.max(1, this.#openedAt + this.#openMs - Date.now() + 1);
  }

  /** Rejects as `work` does; with cockatiel's BrokenCircuitError where it was not waited for. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    const outcome = await this.#policy.execute(async (): Promise<Outcome<T>> => {
      try {
        return { value: await work() };
      } catch (error) {
        if (error instanceof WaltideError && error.retry) throw error;
        return { error };
      }
    });
    if ('error' in outcome) throw outcome.error;
    return outcome.value;
  }
}
