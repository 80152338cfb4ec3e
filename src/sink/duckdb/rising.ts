import { isNull } from './packing.ts';

/** Looks at signed integers of 4 or 8 bytes, as DuckDB's vectors hold them: whether each is more than the one before. */
export class Rising {
  readonly #words: number;
  #begun = false;
  #high = 0;
  #low = 0;

  constructor(bytes: number) {
    this.#words = bytes / 4;
  }

  /** False where one is not, or is NULL. */
  goOn(data: Uint8Array, valid: Uint8Array | null, from: number, to: number): boolean {
    const words = new Int32Array(data.buffer, data.byteOffset, data.byteLength / 4);
    const size = this.#words;
    let begun = this.#begun;
    let high = this.#high;
    let low = this.#low;
    for (let i = from; i < to; i++) {
      const nextHigh = words[i * size + size - 1]!;
      const nextLow = size === 1 ? 0 : words[i * size]! >>> 0;
      if (begun && (nextHigh < high || (nextHigh === high && nextLow <= low))) return false;
      if (isNull(valid, i)) return false;
      begun = true;
      high = nextHigh;
      low = nextLow;
    }
    this.#begun = begun;
    this.#high = high;
    this.#low = low;
    return true;
  }
}
