import type { Lsn } from '../event/lsn.ts';
import type { LagSummary } from './events.ts';

/** One bucket per millisecond up to a minute: exact enough, and the same memory however long the demo runs. */
const BUCKETS = 60_000;
/** Commits that wait for the target; an outage of minutes at full rate stays below it. */
const PENDING_MAX = 200_000;

/** Measures, for each transaction, how long after its commit the target has it. */
export class LagMeter {
  readonly #buckets = new Uint32Array(BUCKETS + 1);
  #pending: { readonly lsn: Lsn; readonly timeMs: number }[] = [];
  #head = 0;
  #samples = 0;
  #max = 0;
  #last: number | null = null;

  /** A transaction whose end is at or before `lsn` was committed at `timeMs`. */
  committed(lsn: Lsn, timeMs: number): void {
    if (this.#pending.length - this.#head < PENDING_MAX) this.#pending.push({ lsn, timeMs });
  }

  /** The target has everything up to `lsn`. `count` = false leaves what arrives now out of the summary. */
  applied(lsn: Lsn, nowMs: number, count: boolean): void {
    while (this.#head < this.#pending.length && this.#pending[this.#head]!.lsn <= lsn) {
      const lag = nowMs - this.#pending[this.#head++]!.timeMs;
      this.#last = lag;
      if (!count) continue;
      this.#buckets[Math.min(Math.max(Math.round(lag), 0), BUCKETS)]!++;
      this.#samples++;
      this.#max = Math.max(this.#max, lag);
    }
    if (this.#head > 1000) {
      this.#pending = this.#pending.slice(this.#head);
      this.#head = 0;
    }
  }

  /** Age of the oldest commit that the target does not have, 0 where it has all. */
  oldestMs(nowMs: number): number {
    const oldest = this.#pending[this.#head];
    return oldest ? nowMs - oldest.timeMs : 0;
  }

  /** The worse of what has just arrived and what still waits; null before anything arrived. */
  currentMs(nowMs: number): number | null {
    return this.#last === null ? null : Math.max(this.#last, this.oldestMs(nowMs));
  }

  summary(): LagSummary | null {
    if (this.#samples === 0) return null;
    return {
      p50: this.#percentile(0.5),
      p95: this.#percentile(0.95),
      max: Math.round(this.#max),
      samples: this.#samples,
    };
  }

  #percentile(share: number): number {
    let left = Math.ceil(this.#samples * share);
    for (let ms = 0; ms <= BUCKETS; ms++) {
      left -= this.#buckets[ms]!;
      if (left <= 0) return ms;
    }
    return BUCKETS;
  }
}
