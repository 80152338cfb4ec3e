import type { Lsn } from '../event/lsn.ts';

/** Finer than this, the time of a position is of no use to anyone. */
const SAMPLE_INTERVAL_MS = 1000;
/** Two hours in seconds; older ones are thinned by dropping every other, which only lets go a little later. */
const SAMPLES_MAX = 7200;

export interface RetainBounds {
  readonly bytes: number;
  /** Null: bytes alone decide. */
  readonly ms: number | null;
}

/**
 * Holds the acknowledgement back on purpose, so that what is already in the sinks can be streamed once more. Whichever
 * bound is reached first lets go. Pure: the caller says what is durable, and what time it is by a clock that never jumps
 * (`performance.now`): what was let go once is gone.
 */
export class RetainWindow {
  readonly #bounds: RetainBounds | null;
  #samples: { readonly lsn: Lsn; readonly timeMs: number }[] = [];
  #released: Lsn = 0n;
  /** Bytes beyond which the WAL budget of the source does not let us go; set by who watches it. */
  bytesMax = Number.POSITIVE_INFINITY;

  /** Null holds nothing back. */
  constructor(bounds: RetainBounds | null) {
    this.#bounds = bounds;
  }

  /** Everything before `lsn` was committed by `timeMs`. */
  note(lsn: Lsn, timeMs: number): void {
    if (this.#bounds === null || this.#bounds.ms === null) return;
    const last = this.#samples.at(-1);
    if (last && (lsn <= last.lsn || timeMs - last.timeMs < SAMPLE_INTERVAL_MS)) return;
    this.#samples.push({ lsn, timeMs });
    if (this.#samples.length > SAMPLES_MAX) this.#samples = this.#samples.filter((_, index) => index % 2 === 1);
  }

  /** What may be acknowledged where everything before `durable` is durable. Never goes back. */
  release(durable: Lsn, nowMs: number): Lsn {
    if (this.#bounds === null) return durable;
    const bytes = BigInt(Math.floor(Math.min(this.#bounds.bytes, this.bytesMax)));
    // Any LSN before what is durable may be acknowledged, not only the ends of transactions.
    let lsn = durable > bytes ? durable - bytes : 0n;
    if (this.#bounds.ms !== null) {
      const tooOld = nowMs - this.#bounds.ms;
      let old = 0;
      while (old < this.#samples.length && this.#samples[old]!.timeMs <= tooOld) old++;
      const aged = this.#samples[old - 1]?.lsn ?? 0n;
      if (aged > lsn) lsn = aged;
    }
    if (lsn > durable) lsn = durable;
    if (lsn > this.#released) this.#released = lsn;
    let passed = 0;
    while (passed < this.#samples.length && this.#samples[passed]!.lsn <= this.#released) passed++;
    if (passed > 0) this.#samples.splice(0, passed);
    return this.#released;
  }
}
