import type { KeyText } from '../postgres/snapshots.ts';

/** Keys in one statement. */
const BATCH_MAX = 500;

/** A key to read once more. */
export interface Reread {
  readonly key: KeyText;
  /** Another number: it was asked for again. */
  readonly asked: number;
}

/** Keys whose rows a snapshot must read once more: they moved where its cursor had passed. */
export class Rereads {
  readonly #keys = new Map<string, Reread>();
  #asked = 0;
  #batchMax = BATCH_MAX;

  constructor(saved: readonly KeyText[]) {
    for (const key of saved) this.add(key);
  }

  get size(): number {
    return this.#keys.size;
  }

  /** True where there are enough for a statement of their own. */
  get full(): boolean {
    return this.#keys.size >= BATCH_MAX;
  }

  add(key: KeyText): void {
    this.#keys.set(JSON.stringify(key), { key, asked: ++this.#asked });
  }

  clear(): void {
    this.#keys.clear();
  }

  keys(): KeyText[] {
    return [...this.#keys.values()].map(({ key }) => key);
  }

  /** Those to read next. */
  batch(): Reread[] {
    return [...this.#keys.values()].slice(0, this.#batchMax);
  }

  /** Their rows have come, or there are none. What was asked for again meanwhile stays. */
  done(batch: readonly Reread[]): void {
    this.#batchMax = Math.min(this.#batchMax * 2, BATCH_MAX);
    for (const { key, asked } of batch) {
      const name = JSON.stringify(key);
      if (this.#keys.get(name)?.asked === asked) this.#keys.delete(name);
    }
  }

  /** Their rows were too many bytes for one chunk: fewer next time. */
  tooMany(batch: readonly Reread[]): void {
    this.#batchMax = Math.ceil(batch.length / 2);
  }
}
