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
  /** What was asked for and is in the stream, but not known to be durable. */
  readonly #sent = new Set<number>();
  #allSent = false;
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

  /** At this place of the stream: true where the row of this key may not have come, so that one that moves from there is to be read. */
  mayLack(key: KeyText): boolean {
    if (!this.#allSent) return true;
    const asked = this.#keys.get(JSON.stringify(key))?.asked;
    return asked !== undefined && !this.#sent.has(asked);
  }

  /** From here on every row is in the stream, but for these. */
  allSent(): void {
    this.#allSent = true;
  }

  clear(): void {
    this.#keys.clear();
    this.#sent.clear();
    this.#allSent = false;
  }

  keys(): KeyText[] {
    return [...this.#keys.values()].map(({ key }) => key);
  }

  /** Those to read next. */
  batch(): Reread[] {
    return [...this.#keys.values()].slice(0, this.#batchMax);
  }

  /** From here on their rows are in the stream. Until they are durable, they are asked for again after a crash. */
  sent(batch: readonly Reread[]): void {
    for (const { asked } of batch) this.#sent.add(asked);
  }

  /** Their rows are durable, or there are none. What was asked for again meanwhile stays. */
  done(batch: readonly Reread[]): void {
    // Slowly: what was too much once will be so again, and each time a session is lost.
    this.#batchMax = Math.min(Math.ceil(this.#batchMax * 1.25), BATCH_MAX);
    for (const { key, asked } of batch) {
      this.#sent.delete(asked);
      const name = JSON.stringify(key);
      if (this.#keys.get(name)?.asked === asked) this.#keys.delete(name);
    }
  }

  /** Their rows were too many bytes for one chunk: fewer next time. */
  tooMany(batch: readonly Reread[]): void {
    this.#batchMax = Math.ceil(batch.length / 2);
  }
}
