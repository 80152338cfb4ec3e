import type { WaltideError } from '../errors.ts';
import type { Delivery } from '../event/batch.ts';
import type { ChangeEvent } from '../event/change-event.ts';
import type { Beside } from './beside.ts';

/** A chunk that is being applied beside the stream. */
export interface BesideWork {
  /** What was delivered, the chunk last. */
  readonly deliveries: readonly Delivery[];
  readonly chunk: Delivery;
  readonly beside: Beside;
  /** By `performance.now`. */
  readonly began: number;
  /** Null while it is not known. */
  outcome: 'durable' | 'rest' | WaltideError | null;
}

/** The chunks that are being applied beside the stream, in the order in which they came. */
export class Besides {
  readonly #works: BesideWork[] = [];

  get size(): number {
    return this.#works.length;
  }

  /** `onDone` is called once its outcome is known. */
  add(deliveries: readonly Delivery[], chunk: Delivery, beside: Beside, onDone: () => void): void {
    const work: BesideWork = { deliveries, chunk, beside, began: performance.now(), outcome: null };
    this.#works.push(work);
    beside.done
      .then(
        (durable) => {
          work.outcome = durable ? 'durable' : 'rest';
        },
        (error: WaltideError) => {
          work.outcome = error;
        },
      )
      .then(onDone);
  }

  /**
   * The first one that something is to be done about, which is no longer among them then. `turns`: what could not be stored beside
   * the stream can have its turn.
   */
  takeDone(turns: boolean): BesideWork | null {
    const index = this.#works.findIndex((work) => isDone(work, turns));
    return index < 0 ? null : this.#works.splice(index, 1)[0]!;
  }

  anyDone(turns: boolean): boolean {
    return this.#works.some((work) => isDone(work, turns));
  }

  /**
   * Tells all of them that these events are about to be applied. Resolves, once those that must be there before have an outcome,
   * with those of them that need a turn first.
   */
  async before(events: readonly ChangeEvent[]): Promise<readonly BesideWork[]> {
    const blocking = this.#works.filter(({ beside }) => !beside.passes(events));
    await Promise.allSettled(blocking.map(({ beside }) => beside.done));
    return blocking.filter(({ outcome }) => outcome === 'rest');
  }

  /** Resolves once all of them have an outcome. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#works.map(({ beside }) => beside.done));
  }
}

function isDone({ outcome }: BesideWork, turns: boolean): boolean {
  return outcome !== null && (turns || outcome !== 'rest');
}
