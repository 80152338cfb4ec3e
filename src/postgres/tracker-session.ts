import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { TrackingConfig } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import { migrate } from './control.ts';
import { heartbeat, type InstanceInfo, lockInstance, registerInstance, stopInstance } from './instances.ts';
import { END_LOST_SESSION, KEEPALIVE, processIdOf } from './lost-session.ts';
import { cleanUp } from './run-cleanup.ts';
import { closeAbandoned, RUN_CHANNEL } from './runs.ts';
import { connectSource, type Endpoint } from './session.ts';
import { trackingQuery } from './tracking-query.ts';

export interface TrackerSessionOptions {
  readonly source: Endpoint;
  readonly tracking: TrackingConfig;
  readonly log: Log;
  readonly setsUp: boolean;
  readonly info: InstanceInfo;
  /** Before anyone uses a new session. */
  readonly onConnected: (client: pg.Client) => Promise<void>;
  readonly onBeat: () => Promise<void>;
  /** No heartbeat got through for so long that others may soon conclude that this instance is dead. */
  readonly onOutOfTouch: () => void;
  readonly onNotification: (text: string) => void;
}

const RECONNECT_MS = 1000;
const LOCK_TRIES = 20;
const LOCK_POLL_MS = 100;
/** Of the time after which others take the instance for dead: what is left is for the work to stop. */
const OUT_OF_TOUCH = 0.7;

/** The one session that an instance lives by: its locks, its heartbeat, its ear. Opened again where it is lost. */
export class TrackerSession {
  readonly #options: TrackerSessionOptions;
  #client: pg.Client | null = null;
  #connecting: Promise<pg.Client> | null = null;
  #turn: Promise<unknown> = Promise.resolve();
  #timer: NodeJS.Timeout | null = null;
  #outOfTouchTimer: NodeJS.Timeout | null = null;
  /** Server process of the last session, which may not have noticed that it is lost. */
  #lastPid: number | null = null;
  #closed = false;
  #cleanedAt = Number.NEGATIVE_INFINITY;
  #said = '';

  constructor(options: TrackerSessionOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    await this.use(async () => {});
    this.#schedule(this.#options.tracking.heartbeatIntervalMs);
  }

  openLater(): void {
    this.#schedule(0);
  }

  /**
   * Something on the session, which is alone on it. Not tried again where the session is lost on the way: the caller
   * knows whether it may be.
   */
  use<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    const turn = this.#turn.then(async () => this.#bounded(await this.#connected(), work));
    this.#turn = turn.catch(() => {});
    return turn;
  }

  /** A half-open connection would keep it waiting for many minutes. */
  async #bounded<T>(client: pg.Client, work: (client: pg.Client) => Promise<T>): Promise<T> {
    const silence = setTimeout(() => void client.end(), this.#options.tracking.heartbeatTimeoutMs / 3);
    try {
      return await work(client);
    } finally {
      clearTimeout(silence);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    if (this.#timer) clearTimeout(this.#timer);
    if (this.#outOfTouchTimer) clearTimeout(this.#outOfTouchTimer);
    const client = this.#client;
    this.#client = null;
    if (!client) return;
    await this.#turn
      .then(() => this.#bounded(client, (open) => stopInstance(open, this.#options.info.id)))
      .catch(() => {});
    await client.end().catch(() => {});
  }

  #connected(): Promise<pg.Client> {
    if (this.#client) return Promise.resolve(this.#client);
    if (this.#closed) return Promise.reject(closed());
    this.#connecting ??= this.#connect().finally(() => (this.#connecting = null));
    return this.#connecting;
  }

  async #connect(): Promise<pg.Client> {
    const { source, tracking, info, setsUp, onConnected, onNotification } = this.#options;
    const client = await connectSource(source, 'tracking');
    try {
      await trackingQuery(client, KEEPALIVE);
      if (setsUp) await migrate(client);
      await this.#lock(client);
      const at = performance.now();
      await registerInstance(client, info, tracking.heartbeatTimeoutMs);
      this.#beaten(at);
      await trackingQuery(client, `LISTEN ${RUN_CHANNEL}`);
      client.on('notification', ({ payload = '' }) => onNotification(payload));
      client.once('end', () => this.#lost(client));
      await onConnected(client);
      if (this.#closed) throw closed();
    } catch (error) {
      await client.end().catch(() => {});
      throw error;
    }
    this.#client = client;
    this.#lastPid = processIdOf(client);
    this.#said = '';
    return client;
  }

  /** The server may not know yet that our last session is gone. */
  async #lock(client: pg.Client): Promise<void> {
    const { id } = this.#options.info;
    for (let tries = 1; !(await lockInstance(client, id)); tries++) {
      if (tries === LOCK_TRIES)
        throw new WaltideError('SOURCE_BUSY', 'an older session of this instance is still there', 'It is tried again.');
      if (this.#lastPid !== null) await trackingQuery(client, END_LOST_SESSION, [this.#lastPid]);
      await sleep(LOCK_POLL_MS);
    }
  }

  #lost(client: pg.Client): void {
    if (this.#client !== client) return;
    this.#client = null;
    if (!this.#closed) this.#schedule(0);
  }

  #schedule(ms: number): void {
    if (this.#timer) clearTimeout(this.#timer);
    if (!this.#closed) this.#timer = setTimeout(() => void this.#beat(), ms);
  }

  async #beat(): Promise<void> {
    const { tracking, info, log, onBeat } = this.#options;
    try {
      await this.use((client) => this.#sayAlive(client));
      await onBeat();
      await this.#cleanUp();
      for (const syncType of await this.use((client) => closeAbandoned(client, info.id, null)))
        log.warn({ syncType }, 'a run whose instance died is closed as abandoned');
      this.#schedule(tracking.heartbeatIntervalMs);
    } catch (error) {
      if (this.#closed) return;
      // Once for each reason: a server that is away for an hour is one piece of news.
      const message = messageOf(error);
      const waiting = error instanceof WaltideError && error.code === 'SOURCE_SETTINGS' && !this.#options.setsUp;
      if (message !== this.#said) log[waiting ? 'debug' : 'warn'](`tracking of runs: ${message}`);
      this.#said = message;
      this.#schedule(Math.min(RECONNECT_MS, tracking.heartbeatIntervalMs));
    }
  }

  /** Any instance does it: it is harmless to do it twice. */
  async #cleanUp(): Promise<void> {
    const { historyDays, cleanupIntervalMs } = this.#options.tracking;
    if (performance.now() < this.#cleanedAt + cleanupIntervalMs) return;
    this.#cleanedAt = performance.now();
    const removed = await this.use((client) => cleanUp(client, historyDays));
    this.#options.log.debug(removed, 'what is old in the control schema is removed');
  }

  async #sayAlive(client: pg.Client): Promise<void> {
    const { info, tracking } = this.#options;
    const at = performance.now();
    if (!(await heartbeat(client, info.id, tracking.heartbeatTimeoutMs)))
      await registerInstance(client, info, tracking.heartbeatTimeoutMs);
    this.#beaten(at);
  }

  /** A heartbeat sent at `at` has got through. */
  #beaten(at: number): void {
    if (this.#outOfTouchTimer) clearTimeout(this.#outOfTouchTimer);
    const { tracking, onOutOfTouch } = this.#options;
    const leftMs = at + tracking.heartbeatTimeoutMs * OUT_OF_TOUCH - performance.now();
    this.#outOfTouchTimer = setTimeout(onOutOfTouch, Math.max(0, leftMs));
    this.#outOfTouchTimer.unref();
  }
}

function closed(): WaltideError {
  return new WaltideError('RUN_LOST', 'the tracker is closed', 'Make a new one to track work.');
}
