import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { TrackingConfig } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import { classify, passes } from './error-class.ts';
import { OpenRun } from './open-run.ts';
import { type RunStatistics, runStatistics } from './run-statistics.ts';
import {
  beginRun,
  closeAbandoned,
  endRun,
  type LastSync,
  listRuns,
  listSyncStatus,
  type RunFilter,
  type RunRecord,
  readClaim,
  readRun,
  requestCancel,
  type SyncStatus,
  saveProgress,
  withdrawRun,
} from './runs.ts';
import type { Endpoint } from './session.ts';
import { TrackerSession } from './tracker-session.ts';
import { syncTypeKey, trackingQuery } from './tracking-query.ts';

/** One unit of tracked work, as the work itself sees it. */
export interface Run {
  /** Of its row in `waltide.sync_history`. */
  readonly id: string;
  readonly syncType: string;
  /** What the last successful run of this sync type came to: where an incremental one goes on. */
  readonly last: LastSync;
  /** Aborts when somebody cancels the run, the process ends, or another instance may take over. */
  readonly signal: AbortSignal;
  /** Says how far it is: `records` in all so far, `latest` up to where. Costs nothing; it is written about twice a second. */
  progress(progress: RunProgressNote): void;
}

export interface RunProgressNote {
  readonly records?: number;
  readonly latest?: string | Date;
  /** Merged into what was said before. */
  readonly metadata?: object;
}

export interface TrackedOptions {
  /** False where the work tries again by itself, or must not be done twice. Default: true. */
  readonly retry?: boolean;
  /** True waits until a run of the same type is over; otherwise that is refused with RUN_BUSY. */
  readonly wait?: boolean;
  readonly metadata?: object;
  /** True for an error that says that nothing was begun, since it cannot be: such a run is taken back, as if it had never been. */
  readonly refused?: (error: unknown) => boolean;
}

/**
 * Does `work` as the one run of its sync type, in whichever process, and records what becomes of it. Resolves and
 * rejects as the last attempt of `work` does; rejects with RUN_BUSY where it is being done already, with RUN_CANCELLED,
 * or with RUN_LOST where this process was out of touch for so long that another may do it by now.
 */
export type Tracked = <T>(syncType: string, work: (run: Run) => Promise<T>, options?: TrackedOptions) => Promise<T>;

export interface TrackerOptions {
  readonly source: Endpoint;
  readonly tracking: TrackingConfig;
  readonly log: Log;
  readonly version: string;
  /** What the process is for, to tell instances apart. */
  readonly role: string;
  /** False leaves it to another to make schema "waltide" what it must be, and waits for it. Default: true. */
  readonly setsUp?: boolean;
}

const PROGRESS_MS = 500;
const WAIT_POLL_MS = 1000;
/** Of runs that are told to end when the process does; they are recorded as errors. */
const CLOSE_WAIT_MS = 5000;

/** Tracked work of this process: it registers as an instance, and keeps in touch with the others through the source. */
export class Tracker {
  readonly instance: string;
  readonly #options: TrackerOptions;
  readonly #session: TrackerSession;
  readonly #open = new Map<string, OpenRun>();
  readonly #closing = new AbortController();
  #progressTimer: NodeJS.Timeout | null = null;
  readonly #listeners = new Set<(text: string) => void>();

  constructor(options: TrackerOptions) {
    const { tracking, source, log } = options;
    this.#options = options;
    this.instance = `${tracking.instance ?? hostname()}:${process.pid}:${randomBytes(3).toString('hex')}`;
    this.#session = new TrackerSession({
      source,
      tracking,
      log,
      setsUp: options.setsUp ?? true,
      info: {
        id: this.instance,
        slot: source.slot,
        role: options.role,
        host: hostname(),
        pid: process.pid,
        version: options.version,
      },
      onConnected: (client) => this.#reclaim(client),
      onBeat: () => this.#saveProgress(),
      onOutOfTouch: () => this.#lose([...this.#open.values()], 'had no connection to the source for too long'),
      onNotification: (id) => void this.#notified(id),
    });
  }

  /** Registers the instance. Rejects as `connect` and `migrate` do. */
  open(): Promise<void> {
    return this.#session.open();
  }

  /** As `open`, for a process that can do its work meanwhile: resolves at once and tries until it works. */
  openLater(): void {
    this.#session.openLater();
  }

  /** Tells its runs to end, records how they do, and takes leave. Never rejects. */
  async close(): Promise<void> {
    this.#closing.abort();
    for (const run of this.#open.values()) run.abort(stopped('the process is stopping'));
    const ends = Promise.allSettled([...this.#open.values()].map(({ ended }) => ended));
    const bound = new AbortController();
    await Promise.race([ends, sleep(CLOSE_WAIT_MS, undefined, { signal: bound.signal }).catch(() => {})]);
    bound.abort();
    if (this.#progressTimer) clearTimeout(this.#progressTimer);
    await this.#session.close();
  }

  readonly tracked: Tracked = async (syncType, work, options = {}) => {
    const run = await this.#begin(syncType, options);
    return this.#perform(run, work, options);
  };

  /** As `tracked`, but resolves with the run's id once it has begun. What becomes of it is in its record. */
  async start(syncType: string, work: (run: Run) => Promise<unknown>, options: TrackedOptions = {}): Promise<string> {
    const run = await this.#begin(syncType, options);
    this.#perform(run, work, options).catch((error: unknown) =>
      this.#options.log.debug({ syncType, run: run.id }, messageOf(error)),
    );
    return run.id;
  }

  /** Null where there is none of this id. */
  get(id: string): Promise<RunRecord | null> {
    return this.#session.use((client) => readRun(client, id));
  }

  /** Newest first. */
  list(filter: RunFilter = {}): Promise<RunRecord[]> {
    return this.#session.use((client) => listRuns(client, filter));
  }

  /** How every sync type stands. */
  status(): Promise<SyncStatus[]> {
    return this.#session.use((client) => listSyncStatus(client));
  }

  /** By sync type, of the runs that began since. */
  statistics(since: Date): Promise<RunStatistics[]> {
    return this.#session.use((client) => runStatistics(client, since));
  }

  /** Asks for the end of a run, in whichever process. False where it is not in progress. */
  async cancel(id: string): Promise<boolean> {
    return this.#session.use((client) => requestCancel(client, id));
  }

  /** Something short on the tracker's own session: the heartbeat waits for it. Not tried again. */
  control<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    return this.#session.use(work);
  }

  /** Calls `listener` with whatever is told on RUN_CHANNEL, until what it gives back is called. */
  onNotice(listener: (text: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async #begin(syncType: string, options: TrackedOptions): Promise<OpenRun> {
    checkSyncType(syncType);
    for (;;) {
      if (this.#closing.signal.aborted) throw stopped('the process is stopping');
      const begun = await this.#claim(syncType, options.metadata ?? {});
      if (begun instanceof OpenRun) return begun;
      if (!options.wait) throw begun;
      await this.#change();
    }
  }

  /** The run, or why it cannot begin now. */
  #claim(syncType: string, metadata: object): Promise<OpenRun | WaltideError> {
    return this.#session.use(async (client) => {
      const locked = await trackingQuery<{ locked: boolean }>(
        client,
        `SELECT pg_catalog.pg_try_advisory_lock(${syncTypeKey('$1::text')}) AS locked`,
        [syncType],
      );
      if (!locked[0]!.locked) return busy(syncType, await readClaim(client, syncType));
      const claim = { syncType, instance: this.instance, metadata };
      let begun = await beginRun(client, claim);
      // Whoever had the lock is gone; whether for good, its heartbeats tell.
      if (!begun && (await closeAbandoned(client, this.instance, null)).includes(syncType))
        begun = await beginRun(client, claim);
      if (begun) {
        const run = new OpenRun(syncType, begun, metadata, () => this.#noteProgress());
        this.#open.set(run.id, run);
        return run;
      }
      await unlock(client, syncType);
      return busy(syncType, await readClaim(client, syncType));
    });
  }

  async #perform<T>(run: OpenRun, work: (run: Run) => Promise<T>, options: TrackedOptions): Promise<T> {
    try {
      const result = await this.#attempts(run, work, options.retry ?? true);
      // Cancelled or not: it is done. Lost is another matter, somebody else may be doing it.
      if (run.lost) throw run.lost;
      if (!(await this.#finish(run, null))) throw lost(run.syncType, 'was closed as abandoned by another instance');
      return result;
    } catch (error) {
      const reason: unknown = run.signal.aborted ? run.signal.reason : error;
      const refused = !run.signal.aborted && options.refused?.(error);
      if (!run.finished) await this.#finish(run, reason, refused).catch(() => {});
      throw reason;
    } finally {
      this.#open.delete(run.id);
      run.settle();
    }
  }

  async #attempts<T>(run: OpenRun, work: (run: Run) => Promise<T>, retry: boolean): Promise<T> {
    const { attemptsMax, firstMs, maxMs } = this.#options.tracking.retry;
    for (let attempt = 1; ; attempt++) {
      try {
        return await work(run);
      } catch (error) {
        run.signal.throwIfAborted();
        if (!retry || attempt >= attemptsMax || !passes(error)) throw error;
        const waitMs = Math.min(maxMs, firstMs * 2 ** (attempt - 1)) * (0.5 + Math.random() / 2);
        this.#options.log.warn(
          { syncType: run.syncType, run: run.id, attempt, retryInMs: Math.round(waitMs) },
          `${messageOf(error)}; trying again`,
        );
        run.progress({ metadata: { attempts: attempt + 1, lastError: messageOf(error) } });
        await sleep(waitMs, undefined, { signal: run.signal });
      }
    }
  }

  /** False where the claim was lost. Tries for as long as others must take this instance for living. */
  async #finish(run: OpenRun, error: unknown, refused = false): Promise<boolean> {
    const cancelled = error instanceof WaltideError && error.code === 'RUN_CANCELLED';
    const ending = {
      ...run.state,
      status: error === null ? ('success' as const) : ('error' as const),
      error: error === null ? null : messageOf(error) || String(error),
      errorClass: error === null || cancelled ? null : classify(error),
    };
    const deadline = performance.now() + this.#options.tracking.heartbeatTimeoutMs;
    for (let backoffMs = 100; ; backoffMs *= 2) {
      try {
        return await this.#session.use(async (client) => {
          const how = refused ? withdrawRun : endRun;
          const ended = await how(client, this.instance, run.id, ending);
          run.finished = true;
          await unlock(client, run.syncType);
          return ended;
        });
      } catch (failure) {
        if (run.finished) return true;
        if (run.lost || this.#closing.signal.aborted || performance.now() + backoffMs > deadline) throw failure;
        await sleep(backoffMs);
      }
    }
  }

  #noteProgress(): void {
    this.#progressTimer ??= setTimeout(() => {
      this.#progressTimer = null;
      this.#saveProgress().catch((error: unknown) => this.#options.log.debug(`progress of runs: ${messageOf(error)}`));
    }, PROGRESS_MS);
  }

  /** Also how a run comes to know that somebody wants its end. */
  async #saveProgress(): Promise<void> {
    const runs = [...this.#open.values()].filter(({ finished }) => !finished);
    if (runs.length === 0) return;
    const told = await this.#session.use((client) =>
      saveProgress(client, this.instance, new Map(runs.map((run) => [run.id, run.state]))),
    );
    for (const run of runs) {
      const claim = told.get(run.id);
      if (claim?.cancelRequested) run.abort(runCancelled(run.syncType));
      else if (!claim && !run.finished) this.#lose([run], 'was closed as abandoned by another instance');
    }
  }

  /** After a new session: what it held of locks is held again, and what is another's by now is let go. */
  async #reclaim(client: pg.Client): Promise<void> {
    const runs = [...this.#open.values()].filter(({ finished }) => !finished);
    await closeAbandoned(
      client,
      this.instance,
      runs.map(({ id }) => id),
    );
    if (runs.length === 0) return;
    const held = await saveProgress(client, this.instance, new Map(runs.map((run) => [run.id, run.state])));
    for (const run of runs) {
      if (!held.has(run.id)) {
        this.#lose([run], 'was closed as abandoned by another instance');
        continue;
      }
      // The claim keeps others off; one that tries just now gives the lock back at once.
      await trackingQuery(client, `SELECT pg_catalog.pg_advisory_lock(${syncTypeKey('$1::text')})`, [run.syncType]);
    }
  }

  #lose(runs: readonly OpenRun[], why: string): void {
    for (const run of runs) {
      if (run.finished || run.lost) continue;
      run.lost = lost(run.syncType, why);
      this.#options.log.error({ run: run.id }, run.lost.message);
      run.abort(run.lost);
    }
  }

  async #notified(id: string): Promise<void> {
    for (const listener of this.#listeners) listener(id);
    if (this.#open.has(id)) await this.#saveProgress().catch(() => {});
  }

  /** Something may have changed, or some time has passed. */
  async #change(): Promise<void> {
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#listeners.delete(done);
        this.#closing.signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, WAIT_POLL_MS);
      this.#listeners.add(done);
      this.#closing.signal.addEventListener('abort', done, { once: true });
    });
  }
}

async function unlock(client: pg.Client, syncType: string): Promise<void> {
  await trackingQuery(client, `SELECT pg_catalog.pg_advisory_unlock(${syncTypeKey('$1::text')})`, [syncType]);
}

const SYNC_TYPE_LENGTH_MAX = 200;

function checkSyncType(syncType: string): void {
  if (syncType.length > 0 && syncType.length <= SYNC_TYPE_LENGTH_MAX && !/\p{Cc}/u.test(syncType)) return;
  throw new WaltideError(
    'USAGE',
    `"${syncType.slice(0, 50)}" cannot name a sync type`,
    `Give it 1 to ${SYNC_TYPE_LENGTH_MAX} characters, without control characters.`,
  );
}

function busy(syncType: string, claim: Awaited<ReturnType<typeof readClaim>>): WaltideError {
  const by = claim ? `: run ${claim.id} of instance ${claim.instance}, since ${claim.startedAt.toISOString()}` : '';
  return new WaltideError(
    'RUN_BUSY',
    `"${syncType}" is being done already${by}`,
    'Wait until it is over (`waltide history`), or cancel it.',
  );
}

/** What a run that a person ended rejects with. */
export function runCancelled(syncType: string): WaltideError {
  return new WaltideError('RUN_CANCELLED', `"${syncType}" was cancelled`, 'Start it again when it is wanted.');
}

function stopped(why: string): WaltideError {
  return new WaltideError('RUN_LOST', `interrupted: ${why}`, 'It can be done again once a process runs.');
}

function lost(syncType: string, why: string): WaltideError {
  return new WaltideError(
    'RUN_LOST',
    `the run of "${syncType}" ${why}`,
    'Another instance may do it by now; `waltide history` shows.',
  );
}
