import type { Lsn } from '../event/lsn.ts';

interface Sample {
  readonly lsn: Lsn;
  readonly timeMs: number;
}

/** Ten samples a second for an hour; older ones are thinned by dropping every other. */
const SAMPLES_MAX = 36_000;
const SAMPLE_INTERVAL_MS = 100;

/** Remembers when what was committed, so that a sink's LSN can be told as an age. */
export class LagClock {
  #samples: Sample[] = [];

  /** Everything before `lsn` was committed by `timeMs` (Unix milliseconds). */
  note(lsn: Lsn, timeMs: number): void {
    const last = this.#samples.at(-1);
    if (last && (lsn <= last.lsn || timeMs - last.timeMs < SAMPLE_INTERVAL_MS)) return;
    this.#samples.push({ lsn, timeMs });
    if (this.#samples.length > SAMPLES_MAX) this.#samples = this.#samples.filter((_, index) => index % 2 === 0);
  }

  /** Age in seconds of the oldest commit noted that lies beyond `applied`; 0 where there is none. */
  lagSeconds(applied: Lsn, nowMs: number): number {
    let low = 0;
    let high = this.#samples.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#samples[middle]!.lsn <= applied) low = middle + 1;
      else high = middle;
    }
    const oldest = this.#samples[low];
    return oldest ? Math.max(0, (nowMs - oldest.timeMs) / 1000) : 0;
  }
}

/** Events per second over the last few seconds, from a counter that only grows. */
export class Rate {
  #samples: { count: number; timeMs: number }[] = [];

  /** Takes the counter's value now and returns the rate over the window. */
  measure(count: number, nowMs: number, windowMs = 5000): number {
    this.#samples.push({ count, timeMs: nowMs });
    while (this.#samples.length > 2 && nowMs - this.#samples[0]!.timeMs > windowMs) this.#samples.shift();
    const first = this.#samples[0]!;
    const seconds = (nowMs - first.timeMs) / 1000;
    return seconds > 0 ? (count - first.count) / seconds : 0;
  }
}
