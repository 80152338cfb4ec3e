import type { PartitionLog, TransactionClock } from './partition-log.ts';
import type { ProducerNumber, Transactions } from './transactions.ts';

/** What a producer must remember of the Kafka transaction under way. */
export class ProducerTransaction {
  readonly #transactions: Transactions;
  readonly clock: TransactionClock = { writing: 0, sending: 0, enabled: true };
  /** Partitions that are part of it. */
  readonly #joined = new Set<PartitionLog>();
  readonly #joining = new Set<PartitionLog>();
  /** Partitions with batches that are confirmed and wait for the commit. */
  readonly #holding = new Set<PartitionLog>();
  /** How many records are still to come, by Kafka transaction. */
  readonly #reserved = new Map<number, number>();
  #waiters: ((whole: boolean) => void)[] = [];
  #busy = false;

  constructor(transactions: Transactions) {
    this.#transactions = transactions;
  }

  get id(): string {
    return this.#transactions.id;
  }

  /** A request is under way. */
  get busy(): boolean {
    return this.#busy;
  }

  /** True where records may be sent to it; else it joins with the next `join`. */
  admits(log: PartitionLog): boolean {
    if (this.#joined.has(log)) return true;
    this.#joining.add(log);
    return false;
  }

  /** Makes all that were turned away part of the transaction; null where there is none. */
  join(number: ProducerNumber): Promise<boolean> | null {
    if (this.#busy || this.#joining.size === 0) return null;
    const logs = [...this.#joining];
    this.#busy = true;
    return this.#transactions
      .add(number, logs)
      .then((joined) => {
        if (!joined) return false;
        for (const log of logs) {
          this.#joining.delete(log);
          this.#joined.add(log);
        }
        return true;
      })
      .finally(() => {
        this.#busy = false;
      });
  }

  /** A record of `transaction` is still to come: it is not whole before what this returns was called, once. */
  reserve(transaction: number): () => void {
    const reserved = this.#reserved;
    reserved.set(transaction, (reserved.get(transaction) ?? 0) + 1);
    return () => {
      const left = reserved.get(transaction)! - 1;
      if (left > 0) reserved.set(transaction, left);
      else reserved.delete(transaction);
    };
  }

  /** Records of the one under way are still to come. */
  get reserved(): boolean {
    for (const transaction of this.#reserved.keys()) if (transaction <= this.clock.sending) return true;
    return false;
  }

  hold(log: PartitionLog): void {
    this.#holding.add(log);
  }

  wait(): Promise<boolean> {
    return new Promise((resolve) => this.#waiters.push(resolve));
  }

  tell(whole: boolean): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const resolve of waiters) resolve(whole);
  }

  get waitedFor(): boolean {
    return this.#waiters.length > 0;
  }

  /** It is committed: the next one begins. */
  release(): void {
    this.clock.sending++;
    this.#forget();
    const logs = [...this.#holding];
    this.#holding.clear();
    for (const log of logs) log.release();
  }

  /** It is void, and begins again. Returns the partitions whose batches are to be sent once more. */
  restart(): PartitionLog[] {
    this.#forget();
    const logs = [...this.#holding];
    this.#holding.clear();
    return logs;
  }

  #forget(): void {
    this.#joined.clear();
    this.#joining.clear();
  }
}
