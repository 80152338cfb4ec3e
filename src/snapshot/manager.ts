import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { messageOf, WaltideError } from '../errors.ts';
import { failpoint } from '../failpoint.ts';
import {
  endSnapshot,
  listSnapshots,
  SNAPSHOT_CHANNEL,
  type SnapshotRecord,
  takeSnapshot,
} from '../postgres/snapshots.ts';
import { inSession, type SnapshotContext } from './context.ts';
import { KeylessRun } from './keyless-run.ts';
import { progressOf } from './snapshot.ts';
import { TableRun } from './table-run.ts';
import { describeTable } from './table-shape.ts';

/** NOTIFY wakes it at once; this is for what no one tells, and for a lost connection. */
const POLL_MS = 500;
/** Beside those that read: each holds a session or two. */
const WAITING_MAX = 8;
const PLACE_POLL_MS = 100;

interface Running {
  readonly stop: AbortController;
  readonly done: Promise<void>;
}

/**
 * Takes up the requests of `waltide.snapshots`, a few at a time, and does with each what its state says. What one table's
 * snapshot runs into is no other's matter, nor the stream's.
 */
export class SnapshotManager {
  readonly #context: SnapshotContext;
  readonly #slot: string;
  readonly #onCompleted: (record: SnapshotRecord) => Promise<void>;
  /** Runs by snapshot id; those that are paused only watch. */
  readonly #runs = new Map<string, TableRun>();
  readonly #running = new Map<string, Running>();
  /** How many of these wait for others, and leave their place to another one. */
  #waiting = 0;
  #client: pg.Client | null = null;
  #wake: (() => void) | null = null;
  #idle = false;

  /** `onCompleted`: everything of it is durable downstream. Its record is closed after that. */
  constructor(context: Omit<SnapshotContext, 'aside'>, onCompleted: (record: SnapshotRecord) => Promise<void>) {
    this.#context = { ...context, aside: (work, signal) => this.#aside(work, signal) };
    this.#slot = context.config.source.slot;
    this.#onCompleted = onCompleted;
  }

  /** When it last looked what there is to do, by `performance.now`. */
  lookedAt = 0;

  /** True where nothing was pending or running at the last look; paused ones do not count. */
  get idle(): boolean {
    return this.#idle && this.#running.size === 0;
  }

  /** Before the stream begins: those that have begun must see every change of their tables. */
  async load(client: pg.Client): Promise<void> {
    for (const record of await listSnapshots(client, this.#slot, true))
      if (record.begun) this.#runs.set(record.id, new TableRun(record, this.#context));
  }

  /** Until `signal` aborts. Never rejects for what happens to a snapshot. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        const client = await this.#connected();
        const at = performance.now();
        await this.#look(await listSnapshots(client, this.#slot, true), signal);
        this.lookedAt = at;
      } catch (error) {
        if (signal.aborted) break;
        this.#context.log.warn(`snapshots: ${messageOf(error)}`);
        await this.#disconnect();
      }
      await this.#pause(signal);
    }
    for (const { stop } of this.#running.values()) stop.abort();
    await Promise.all([...this.#running.values()].map(({ done }) => done));
    for (const run of this.#runs.values()) run.close();
    await this.#disconnect();
  }

  async #look(records: readonly SnapshotRecord[], signal: AbortSignal): Promise<void> {
    const byId = new Map(records.map((record) => [record.id, record]));
    for (const [id, { stop }] of this.#running) {
      const state = byId.get(id)?.state;
      if (state !== 'running' && state !== 'pending') stop.abort();
    }
    for (const [id, run] of this.#runs)
      if (!byId.has(id) && !this.#running.has(id)) {
        run.close();
        this.#runs.delete(id);
      }
    // Oldest first.
    for (const record of [...records].reverse()) {
      if (this.#running.has(record.id)) continue;
      if (record.state === 'cancelling') this.#start(record, signal, (stop) => this.#cancel(record, stop));
      else if (record.state === 'paused') this.#context.onProgress(progressOf(record, 'paused', record));
      else if (this.#hasPlace && this.#waiting < WAITING_MAX)
        this.#start(record, signal, (stop) => this.#take(record, stop));
    }
    this.#idle = records.every(({ state }) => state === 'paused');
  }

  get #hasPlace(): boolean {
    return this.#running.size - this.#waiting < this.#context.config.snapshot.workers;
  }

  /** A transaction that stays open for hours holds up the snapshot of its own table alone. */
  async #aside<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    this.#waiting++;
    this.#wake?.();
    try {
      const result = await work();
      // Its place may have been taken meanwhile.
      while (!this.#hasPlace) await sleep(PLACE_POLL_MS, undefined, { signal });
      return result;
    } finally {
      this.#waiting--;
    }
  }

  #start(record: SnapshotRecord, outer: AbortSignal, work: (signal: AbortSignal) => Promise<void>): void {
    const stop = new AbortController();
    const signal = AbortSignal.any([outer, stop.signal]);
    const done = work(signal)
      .catch((error: unknown) => (signal.aborted ? undefined : this.#failed(record, error, signal)))
      .catch((error: unknown) => this.#context.log.error({ snapshot: record.id }, messageOf(error)))
      .finally(() => {
        this.#running.delete(record.id);
        this.#wake?.();
      });
    this.#running.set(record.id, { stop, done });
  }

  async #take(record: SnapshotRecord, signal: AbortSignal): Promise<void> {
    const { log } = this.#context;
    const table = `${record.schema}.${record.table}`;
    if (!(await this.#context.control((client) => takeSnapshot(client, record.id)))) return;
    log.info({ table, snapshot: record.id, reason: record.reason, resumed: record.begun }, 'snapshot of a table');
    if (!(await this.#hasKey(record, signal))) {
      const run = new KeylessRun(record, this.#context);
      await run.run(signal);
      this.#context.onProgress(run.progress('completed'));
    } else {
      const run = this.#runOf(record);
      if (!(await run.run(signal))) return;
      this.#context.onProgress(run.progress('completed'));
    }
    failpoint('before-snapshot-end');
    await this.#onCompleted(record);
    await this.#close(record, 'completed');
    log.info({ table, snapshot: record.id }, 'snapshot completed');
  }

  #hasKey(record: SnapshotRecord, signal: AbortSignal): Promise<boolean> {
    const { publications } = this.#context;
    return inSession(this.#context, record, signal, async (client, table) => {
      return (await describeTable(client, publications, table)).key.length > 0;
    });
  }

  async #cancel(record: SnapshotRecord, signal: AbortSignal): Promise<void> {
    const run = this.#runOf(record);
    await run.cancel(signal);
    this.#context.onProgress(run.progress('cancelled'));
    await this.#close(record, 'cancelled');
    this.#context.log.info({ table: `${record.schema}.${record.table}`, snapshot: record.id }, 'snapshot cancelled');
  }

  async #failed(record: SnapshotRecord, error: unknown, signal: AbortSignal): Promise<void> {
    const table = `${record.schema}.${record.table}`;
    const help = error instanceof WaltideError ? ` ${error.help}` : '';
    this.#context.log.error({ table, snapshot: record.id }, `snapshot failed: ${messageOf(error)}.${help}`);
    const run = this.#runOf(record);
    // What has come of it is void.
    await run.cancel(signal);
    this.#context.onProgress({ ...run.progress('failed'), error: messageOf(error) });
    await this.#close(record, 'failed', messageOf(error));
  }

  async #close(
    record: SnapshotRecord,
    state: 'completed' | 'cancelled' | 'failed',
    error: string | null = null,
  ): Promise<void> {
    await this.#context.control((client) => endSnapshot(client, record.id, state, error));
    this.#runs.get(record.id)?.close();
    this.#runs.delete(record.id);
  }

  #runOf(record: SnapshotRecord): TableRun {
    let run = this.#runs.get(record.id);
    if (!run) {
      run = new TableRun(record, this.#context);
      this.#runs.set(record.id, run);
    }
    return run;
  }

  async #connected(): Promise<pg.Client> {
    if (this.#client) return this.#client;
    const client = await this.#context.connect('snapshots');
    client.on('notification', () => this.#wake?.());
    await client.query(`LISTEN ${SNAPSHOT_CHANNEL}`);
    this.#client = client;
    return client;
  }

  async #disconnect(): Promise<void> {
    const client = this.#client;
    this.#client = null;
    await client?.end().catch(() => {});
  }

  async #pause(signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(done, POLL_MS);
      function done(): void {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        resolve();
      }
      this.#wake = done;
      signal.addEventListener('abort', done, { once: true });
      if (signal.aborted) done();
    });
    this.#wake = null;
  }
}
