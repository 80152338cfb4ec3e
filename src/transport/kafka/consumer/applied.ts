import type { Lsn } from '../../../event/lsn.ts';
import { partitionKey } from '../cluster.ts';
import type { Progress } from '../progress.ts';

/** Steps remembered between what is applied and the newest progress. */
const STEPS_MAX = 1024;

/**
 * Finds up to which LSN a sink has everything: the newest progress record whose ends the sink has reached on every
 * partition. Partitions on which nothing happens have reached theirs.
 */
export class AppliedTracker {
  readonly #applied = new Map<string, bigint>();
  /** True where another process of the same sink reads the topic. */
  readonly #elsewhere: (topic: string) => boolean;
  #steps: Progress[] = [];
  #stride = 1;
  #skipped = 0;
  #lsn: Lsn = 0n;

  constructor(elsewhere: (topic: string) => boolean) {
    this.#elsewhere = elsewhere;
  }

  /** The sink has everything below `next` on this partition. */
  applied(key: string, next: bigint): void {
    if (next > (this.#applied.get(key) ?? -1n)) this.#applied.set(key, next);
  }

  progress(step: Progress): void {
    const last = this.#steps.at(-1);
    // A new copy begins at zero again; what was known before it is still true of the data, so nothing goes back.
    if (last && step.lsn < last.lsn) this.#steps = [];
    // A sink far behind needs no finer steps than this: the newest one moves along until it is a stride from the last.
    if (this.#skipped + 1 < this.#stride && this.#steps.length > 0) {
      this.#steps.pop();
      this.#skipped++;
    } else this.#skipped = 0;
    this.#steps.push(step);
    if (this.#steps.length <= STEPS_MAX) return;
    this.#steps = this.#steps.filter((_step, i) => i % 2 === 0);
    this.#stride *= 2;
  }

  lsn(): Lsn {
    let reached = 0;
    while (reached < this.#steps.length && this.#hasReached(this.#steps[reached]!)) reached++;
    if (reached > 0) {
      const { lsn } = this.#steps[reached - 1]!;
      if (lsn > this.#lsn) this.#lsn = lsn;
      this.#steps.splice(0, reached);
      if (this.#steps.length === 0) this.#stride = 1;
    }
    return this.#lsn;
  }

  #hasReached({ ends }: Progress): boolean {
    for (const [topic, list] of ends) {
      if (this.#elsewhere(topic)) continue;
      for (let partition = 0; partition < list.length; partition++) {
        const end = list[partition]!;
        if (end > 0n && (this.#applied.get(partitionKey(topic, partition)) ?? -1n) < end) return false;
      }
    }
    return true;
  }
}
