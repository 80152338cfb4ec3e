import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf, WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import { listSnapshots, wishSnapshot } from '../postgres/snapshots.ts';
import { type Run, runCancelled, type Tracker } from '../postgres/tracked.ts';
import type { SnapshotProgress } from '../snapshot/snapshot.ts';
import type { Companion } from './companion.ts';

/** Recording an end takes milliseconds, unless the source is away. */
const STOP_WAIT_MS = 3000;

/** What a snapshot has told of itself last, and who waits for more. */
interface Watched {
  latest: SnapshotProgress;
  wake: () => void;
}

/**
 * Every snapshot of a table that this process does, the first copy included, as run `snapshot:<schema.table>`. It only
 * watches: a snapshot has its own queue and its own ways to go on, and never waits for its record.
 */
export class SnapshotRuns implements Companion {
  readonly #tracker: Tracker;
  readonly #slot: string;
  readonly #log: Log;
  readonly #watched = new Map<string, Watched>();
  readonly #recording = new Map<Watched, Promise<void>>();

  constructor(tracker: Tracker, slot: string, log: Log) {
    this.#tracker = tracker;
    this.#slot = slot;
    this.#log = log;
  }

  /** For whoever hears of progress. */
  readonly note = (progress: SnapshotProgress): void => {
    const { table, done, state } = progress;
    let watched = this.#watched.get(table);
    // One that was paused before this process began is none of its runs.
    if (!watched && state === 'paused') return;
    if (!watched) {
      watched = { latest: progress, wake: () => {} };
      this.#watched.set(table, watched);
      this.#recording.set(watched, this.#record(table, watched));
    }
    watched.latest = progress;
    watched.wake();
    if (done) this.#watched.delete(table);
  };

  async start(): Promise<void> {}

  /** What has ended is still recorded as what it was; the rest ends with the tracker. */
  async stop(): Promise<void> {
    const ended = [...this.#recording].filter(([{ latest }]) => latest.done).map(([, recording]) => recording);
    const bound = new AbortController();
    await Promise.race([Promise.all(ended), sleep(STOP_WAIT_MS, undefined, { signal: bound.signal }).catch(() => {})]);
    bound.abort();
  }

  async #record(table: string, watched: Watched): Promise<void> {
    try {
      // Refused where whoever asked for it records it already.
      await this.#tracker.tracked(`snapshot:${table}`, (run) => this.#follow(table, watched, run), { retry: false });
    } catch (error) {
      this.#log.debug({ table }, `run of a snapshot: ${messageOf(error)}`);
    } finally {
      this.#recording.delete(watched);
    }
  }

  async #follow(table: string, watched: Watched, run: Run): Promise<void> {
    const stop = (): void => {
      void this.#cancel(table, run.signal.reason);
      watched.wake();
    };
    run.signal.addEventListener('abort', stop, { once: true });
    for (;;) {
      const { kind, state, rows, bytes, estimatedRows, done, error } = watched.latest;
      run.progress({ records: rows, metadata: { kind, state, bytes, estimatedRows } });
      if (state === 'cancelled') throw runCancelled(run.syncType);
      if (state === 'failed')
        throw new WaltideError('SNAPSHOT', error ?? 'the snapshot failed', 'See the log and `waltide snapshot list`.');
      if (done) return;
      run.signal.throwIfAborted();
      await new Promise<void>((resolve) => {
        watched.wake = resolve;
      });
      run.signal.throwIfAborted();
    }
  }

  /** Cancelling the run means the snapshot; that of the first copy cannot be. */
  async #cancel(table: string, reason: unknown): Promise<void> {
    if (!(reason instanceof WaltideError && reason.code === 'RUN_CANCELLED')) return;
    try {
      await this.#tracker.control(async (client) => {
        for (const record of await listSnapshots(client, this.#slot, true))
          if (`${record.schema}.${record.table}` === table) await wishSnapshot(client, record.id, 'cancel');
      });
    } catch (error) {
      this.#log.warn({ table }, `cancelling a snapshot: ${messageOf(error)}`);
    }
  }
}
