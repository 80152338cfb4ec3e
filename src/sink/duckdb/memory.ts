/** A delivery of more bytes than a batch usually has holds a long value. */
const LONG_BYTES = 32 << 20;
/** Measured: DuckDB holds a value of 64 MB about three times while it is stored. */
const LONG_FACTOR = 4;
/** How long more memory is kept than was needed last, before it is seen whether less is enough. */
const KEPT_MS = 60_000;
/** By how many times the usual limit each step goes beyond `memoryLimit`, which is twice that limit; null: the usual one. */
const STEPS = [null, 0, 2, 6] as const;

/**
 * How much memory DuckDB may count for the next batch: usually half of `memoryLimit`, all of it where that is not enough, and
 * more where not even that is. What it notes of rows that are deleted all over a large table cannot be spilled, so that a sink
 * that kept to the limit would stand still for good. Outlives the open file.
 */
export class Memory {
  #step = 0;
  #raisedAt = 0;

  /** From 0 for the usual limit. */
  get step(): number {
    return this.#step;
  }

  /** As `DuckdbFile.allowMemory` takes it. A long value is held several times over on its way: then the limit gives way at once. */
  bytes(deliveryBytes: number, usualBytes: number): number | null {
    if (this.#step > 0 && performance.now() - this.#raisedAt > KEPT_MS) {
      this.#step--;
      this.#raisedAt = performance.now();
    }
    const times = STEPS[this.#step]!;
    if (times === null) return null;
    const long = deliveryBytes > LONG_BYTES ? deliveryBytes * LONG_FACTOR : 0;
    return Math.max(times * usualBytes, long);
  }

  /** False where there is no more to be had. */
  raise(): boolean {
    if (this.#step === STEPS.length - 1) return false;
    this.#step++;
    this.#raisedAt = performance.now();
    return true;
  }
}
