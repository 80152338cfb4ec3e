import type { Lsn } from '../../event/lsn.ts';
import type { Position } from '../../event/position.ts';
import { failpoint } from '../../failpoint.ts';
import type { PartitionLog } from './partition-log.ts';
import type { Producer } from './producer.ts';
import { encodeProgress, PROGRESS_KEY } from './progress.ts';
import type { ProgressSink, ProgressStart, TopicState } from './progress-writer.ts';
import type { Transactions } from './transactions.ts';

/** Under load, a Kafka transaction holds what comes in this time: each costs four round trips without records. */
const TRANSACTION_MS = 100;

/** What was written so far, in the order of the stream. */
export interface Written {
  readonly lsn: Lsn;
  readonly position: Position;
}

export interface CommitLoopOptions {
  readonly producer: Producer;
  readonly transactions: Transactions;
  readonly log: PartitionLog;
  readonly start: ProgressStart;
  readonly topics: () => TopicState;
  /** What has been given to the producer, as of now. */
  readonly written: () => Written;
  /** True where the transaction under way is large enough. */
  readonly isFull: () => boolean;
  /** The newest committed record of `log`, as text. */
  readonly lastCommitted: () => Promise<string>;
}

/**
 * Exactly once: what is written goes out in Kafka transactions, one after another, each of which ends with a progress
 * record that says up to which position the log has everything. What fails is written again under a new number of the
 * producer; where nobody knows whether a transaction was committed, the log is asked.
 */
export class CommitLoop implements ProgressSink {
  readonly #options: CommitLoopOptions;
  copyLsn: Lsn | null;
  #committed: Lsn = -1n;
  #waiting: { lsn: Lsn; written: () => void }[] = [];
  #dirty = false;
  #wake: (() => void) | null = null;
  #stopped = false;

  constructor(options: CommitLoopOptions) {
    this.#options = options;
    this.copyLsn = options.start.copyLsn;
    this.#run().catch((error: Error) => options.producer.fail(error));
  }

  reached(lsn: Lsn, written: () => void): void {
    if (lsn <= this.#committed) written();
    else {
      this.#waiting.push({ lsn, written });
      this.wrote();
    }
  }

  write(): Promise<void> {
    return new Promise((resolve) => {
      // Whatever is committed next is newer than what was asked for.
      this.#waiting.push({ lsn: 0n, written: resolve });
      this.wrote();
    });
  }

  /** There is something to commit, or more of it. */
  wrote(): void {
    this.#dirty = true;
    this.#wake?.();
  }

  stop(): void {
    this.#stopped = true;
    this.#wake?.();
  }

  async #run(): Promise<void> {
    const { producer, isFull } = this.#options;
    while (!this.#stopped) {
      while (!this.#dirty && !this.#stopped) await this.#ring(null);
      const deadline = performance.now() + TRANSACTION_MS;
      const settled = producer.settled();
      let quiet = false;
      settled.then(() => {
        quiet = true;
        this.#wake?.();
      });
      while (!quiet && !isFull() && !this.#stopped && performance.now() < deadline)
        await this.#ring(deadline - performance.now());
      if (!this.#stopped) await this.#commit();
    }
  }

  #ring(timeoutMs: number | null): Promise<void> {
    return new Promise((resolve) => {
      const timer = timeoutMs === null ? null : setTimeout(resolve, timeoutMs);
      this.#wake = () => {
        if (timer) clearTimeout(timer);
        resolve();
      };
    });
  }

  async #commit(): Promise<void> {
    const { producer, transactions, log, lastCommitted } = this.#options;
    this.#dirty = false;
    const written = this.#options.written();
    const waiting = this.#waiting;
    this.#waiting = [];
    producer.closeTransaction();
    for (;;) {
      let text = '';
      const whole = await producer.settled();
      if (whole) {
        text = this.#encode(written);
        producer.appendLast(log, PROGRESS_KEY, text);
        if (await producer.settled()) {
          failpoint('before-kafka-commit');
          if (await transactions.commit(producer.number)) break;
        } else text = '';
      }
      const number = await transactions.renew(producer.number);
      if (text !== '' && (await lastCommitted()) === text) {
        producer.release();
        producer.restart(number);
        this.#done(written, waiting);
        return;
      }
      log.discard();
      producer.restart(number);
    }
    failpoint('after-kafka-commit');
    producer.release();
    this.#done(written, waiting);
  }

  #done({ lsn }: Written, waiting: { lsn: Lsn; written: () => void }[]): void {
    if (lsn > this.#committed) this.#committed = lsn;
    for (const { written } of waiting) written();
  }

  #encode({ lsn, position }: Written): string {
    const { identity, copyStart } = this.#options.start;
    return encodeProgress({ lsn, position, identity, ...this.#options.topics(), copyStart, copyLsn: this.copyLsn });
  }
}
