import type { Lsn } from '../event/lsn.ts';

interface Pending {
  readonly commitEndLsn: Lsn | null;
  done: boolean;
}

/**
 * Which LSN may be acknowledged: the commit end of the last batch before which everything is durable. Batches may
 * become durable in any order; the slot only learns of an unbroken beginning. Pure.
 */
export class Acknowledger {
  readonly #pending: Pending[] = [];
  #head = 0;
  #lsn: Lsn = 0n;

  /** Adds a batch in stream order. Call the result once the batch is durable; it returns the LSN to acknowledge now. */
  track(commitEndLsn: Lsn | null): () => Lsn {
    const entry: Pending = { commitEndLsn, done: false };
    this.#pending.push(entry);
    return () => {
      entry.done = true;
      return this.#advance();
    };
  }

  /** What may be acknowledged now; 0 before anything was durable. */
  get lsn(): Lsn {
    return this.#lsn;
  }

  get outstanding(): number {
    return this.#pending.length - this.#head;
  }

  /** True where nothing is awaited but the beginning of a transaction, which alone nobody can make durable. */
  get settled(): boolean {
    for (let i = this.#head; i < this.#pending.length; i++) if (this.#pending[i]!.commitEndLsn !== null) return false;
    return true;
  }

  #advance(): Lsn {
    while (this.#head < this.#pending.length && this.#pending[this.#head]!.done) {
      const { commitEndLsn } = this.#pending[this.#head]!;
      if (commitEndLsn !== null && commitEndLsn > this.#lsn) this.#lsn = commitEndLsn;
      this.#head++;
    }
    if (this.#head > 1024) {
      this.#pending.splice(0, this.#head);
      this.#head = 0;
    }
    return this.#lsn;
  }
}
