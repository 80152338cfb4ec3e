import type { Lsn } from '../../event/lsn.ts';
import type { SourceIdentity } from '../../event/offset.ts';
import type { PartitionLog } from './partition-log.ts';
import type { Producer } from './producer.ts';
import { encodeProgress, PROGRESS_KEY, type Progress } from './progress.ts';

/** Under load one record in this time says enough; a reader's lag is then true to within it. */
const GAP_MS = 50;
/** With very many topics a record is large, and the gap is kept even where nothing else waits. */
const SMALL_RECORD_BYTES = 16 * 1024;

/** The data topics as of now. */
export type TopicState = Pick<Progress, 'ends' | 'retired'>;
export type ProgressStart = Pick<Progress, 'identity' | 'lsn' | 'copyStart' | 'copyLsn'>;

/** Where capture says how far it is. */
export interface ProgressSink {
  /** See Progress. */
  copyLsn: Lsn | null;
  /** Everything up to `lsn` is durable; `written` runs once a record that says so is durable too. */
  reached(lsn: Lsn, written: () => void, moreIsComing: boolean): void;
  /** Writes a record now, whatever was written when. */
  write(): Promise<void>;
  /** Something was given to the producer. */
  wrote(): void;
  stop(): void;
}

/** Writes how far the topics are, at most every 50 ms while more is coming and at once when nothing is. */
export class ProgressWriter implements ProgressSink {
  readonly #producer: Producer;
  readonly #log: PartitionLog;
  readonly #identity: SourceIdentity;
  readonly #copyStart: Progress['copyStart'];
  /** See Progress. */
  copyLsn: Lsn | null;
  readonly #topics: () => TopicState;
  #waiting: (() => void)[] = [];
  #lsn: Lsn;
  #writing = false;
  #writtenMs = 0;
  #bytes = 0;
  #timer: NodeJS.Timeout | null = null;

  /** Begins at `start.lsn`; `topics` tells the log ends of all data topics at the time of asking. */
  constructor(producer: Producer, log: PartitionLog, start: ProgressStart, topics: () => TopicState) {
    const { identity, lsn, copyStart, copyLsn } = start;
    this.#topics = topics;
    this.#producer = producer;
    this.#log = log;
    this.#identity = identity;
    this.#lsn = lsn;
    this.#copyStart = copyStart;
    this.copyLsn = copyLsn;
  }

  /** Everything up to `lsn` is durable; `written` runs once a record that says so is durable too. */
  reached(lsn: Lsn, written: () => void, moreIsComing: boolean): void {
    if (lsn > this.#lsn) this.#lsn = lsn;
    this.#waiting.push(written);
    this.#schedule(moreIsComing);
  }

  /** Writes a record now, whatever was written when. */
  async write(): Promise<void> {
    const covered = this.#waiting;
    this.#waiting = [];
    this.#writing = true;
    this.#writtenMs = performance.now();
    const progress: Progress = {
      lsn: this.#lsn,
      position: null,
      identity: this.#identity,
      ...this.#topics(),
      copyStart: this.#copyStart,
      copyLsn: this.copyLsn,
    };
    const text = encodeProgress(progress);
    this.#bytes = text.length;
    await this.#producer.append(this.#log, PROGRESS_KEY, text);
    this.#writing = false;
    for (const written of covered) written();
    if (this.#waiting.length > 0) this.#schedule(true);
  }

  wrote(): void {}

  stop(): void {
    if (this.#timer) clearTimeout(this.#timer);
  }

  #schedule(moreIsComing: boolean): void {
    if (this.#writing || this.#timer) return;
    const dueMs = this.#writtenMs + GAP_MS - performance.now();
    const delayMs = moreIsComing || this.#bytes > SMALL_RECORD_BYTES ? dueMs : 0;
    // A failing producer rejects every publish itself; here it only means that nothing is written.
    const write = () => void this.write().catch(() => {});
    if (delayMs <= 0) {
      write();
      return;
    }
    this.#timer = setTimeout(() => {
      this.#timer = null;
      write();
    }, delayMs);
  }
}
