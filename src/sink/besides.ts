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

  /** The first one whose outcome is known, which is no longer among them then. */
  takeDone(): BesideWork | null {
    const index = this.#works.findIndex(({ outcome }) => outcome !== null);
    return index < 0 ? null : this.#works.splice(index, 1)[0]!;
  }

  get anyDone(): boolean {
    return this.#works.some(({ outcome }) => outcome !== null);
  }

  /** Tells all of them that these events are about to be applied. Resolves once those that must be there before have an outcome. */
  async before(events: readonly ChangeEvent[]): Promise<void> {
    const blocking = this.#works.filter(({ beside }) => !beside.passes(events));
    await Promise.allSettled(blocking.map(({ beside }) => beside.done));
  }

  /** Resolves once all of them have an outcome. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#works.map(({ beside }) => beside.done));
  }
}
