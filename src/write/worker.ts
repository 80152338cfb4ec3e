import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import { failpoint } from '../failpoint.ts';
import type { Log } from '../log.ts';
import { isMissing } from '../postgres/connection.ts';
import { make, setSearchPath } from './make.ts';
import { connectWriter, type WriteSession } from './sessions.ts';
import { statementsOf } from './statement.ts';
import {
  flushedLsn,
  forgetOperations,
  lockQueued,
  markAttempt,
  markCommitted,
  noteCommitted,
  OPERATIONS_CHANNEL,
  type OperationRecord,
} from './store.ts';
import { findTarget, type Target } from './target.ts';

/** NOTIFY wakes it at once; this is for what asks for none, and for what no one tells. */
const POLL_MS = 1_000;
const BACKOFF_MAX_MS = 30_000;
const FORGET_INTERVAL_MS = 3_600_000;
const FORGET_OPERATIONS = 10_000;

export interface WriteWorkerOptions {
  readonly config: Config;
  readonly log: Log;
}

/**
 * Makes queued writes, in the order in which they were queued. Any number of processes may have one: an advisory lock lets
 * one work. What an operation writes and that it is made are one transaction.
 */
export class WriteWorker {
  readonly #config: Config;
  readonly #log: Log;
  readonly #stopping = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #wake: (() => void) | null = null;
  /** Something was queued since the last look. */
  #notified = false;
  #forgotAt = Number.NEGATIVE_INFINITY;

  constructor({ config, log }: WriteWorkerOptions) {
    this.#config = config;
    this.#log = log;
  }

  async start(): Promise<void> {
    this.#running = this.#run();
  }

  /** Resolves when the transaction under way has ended. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#wake?.();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    let failures = 0;
    while (!signal.aborted) {
      try {
        await this.#session(() => (failures = 0));
      } catch (error) {
        if (signal.aborted) return;
        const retryInMs = backoffMs(failures++);
        // The pipeline beside it is about to set up.
        const level = isMissing(error) ? 'debug' : 'warn';
        this.#log[level]({ retryInMs }, `the write queue rests: ${messageOf(error)}`);
        await this.#pause(retryInMs);
      }
    }
  }

  async #session(worked: () => void): Promise<void> {
    const { signal } = this.#stopping;
    const session = await connectWriter(this.#config);
    const { client } = session;
    try {
      client.on('notification', () => {
        this.#notified = true;
        this.#wake?.();
      });
      await client.query(`LISTEN ${OPERATIONS_CHANNEL}`);
      while (!signal.aborted && !(await this.#lead(session))) await this.#pause(POLL_MS);
      let retries = 0;
      while (!signal.aborted) {
        this.#notified = false;
        const { made, again } = await this.#round(session);
        worked();
        retries = again ? retries + 1 : 0;
        if (again) await this.#pause(backoffMs(retries - 1));
        else if (made < this.#config.writes.batchMax) {
          await this.#forget(session);
          if (!this.#notified) await this.#pause(POLL_MS);
        }
      }
    } finally {
      await client.end().catch(() => {});
    }
  }

  /** Only for the order, and to spare others the work: locked rows see to it that nothing is made twice. */
  async #lead({ client }: WriteSession): Promise<boolean> {
    const { rows } = await client.query<{ leads: boolean }>(
      'SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended($1, 0)) AS leads',
      [`waltide writes ${this.#config.source.slot}`],
    );
    return rows[0]!.leads;
  }

  /** `again`: the first that is left is to be tried again; those behind it wait, since they may build on it. */
  async #round(session: WriteSession): Promise<{ made: number; again: boolean }> {
    const { client } = session;
    await client.query('BEGIN');
    // Each is told of its own faults: none may show at the end only.
    await client.query('SET CONSTRAINTS ALL IMMEDIATE');
    const queued = await lockQueued(client, this.#config.source.slot, this.#config.writes.batchMax);
    const committed: string[] = [];
    const targets = new Map<string, Target>();
    let again = false;
    for (const operation of queued) {
      const outcome = await this.#try(session, operation, targets);
      if (outcome === 'made') committed.push(operation.id);
      again = outcome === 'again';
      if (again) break;
    }
    if (committed.length > 0) failpoint('before-operations-commit');
    await client.query('COMMIT');
    if (committed.length > 0) {
      failpoint('after-operations-commit');
      await noteCommitted(client, committed, await flushedLsn(client));
    }
    return { made: queued.length, again };
  }

  async #try(
    session: WriteSession,
    operation: OperationRecord,
    targets: Map<string, Target>,
  ): Promise<'made' | 'failed' | 'again'> {
    const { client } = session;
    const { id, schema, table, type, primaryKey, data, attempts } = operation;
    await client.query('SAVEPOINT operation');
    try {
      const name = `${schema}.${table}`;
      const target = targets.get(name) ?? (await this.#find(client, name));
      targets.set(name, target);
      const { write } = statementsOf({ type, ...(primaryKey && { primaryKey }), ...(data && { data }) }, target);
      await markCommitted(client, id, await make(session, type, target, write));
      await client.query('RELEASE SAVEPOINT operation');
      return 'made';
    } catch (error) {
      if (!(error instanceof WaltideError) || error.code === 'SOURCE_CONNECTION_LOST') throw error;
      await client.query('ROLLBACK TO SAVEPOINT operation');
      const final = !error.retry || attempts + 1 >= this.#config.writes.attemptsMax;
      await markAttempt(client, id, { code: error.code, message: error.message, final });
      this.#log.warn(
        { operation: id, table: `${schema}.${table}`, code: error.code, final },
        'a queued write was not made',
      );
      return final ? 'failed' : 'again';
    }
  }

  async #find(client: pg.Client, name: string): Promise<Target> {
    await setSearchPath(client, 'pg_catalog');
    return findTarget(client, this.#config.source, name);
  }

  async #forget({ client }: WriteSession): Promise<void> {
    if (performance.now() - this.#forgotAt < FORGET_INTERVAL_MS) return;
    const { source, writes } = this.#config;
    const count = await forgetOperations(client, source.slot, writes.keepHours, FORGET_OPERATIONS);
    // There may be more.
    if (count < FORGET_OPERATIONS) this.#forgotAt = performance.now();
  }

  async #pause(ms: number): Promise<void> {
    if (this.#stopping.signal.aborted) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = null;
  }
}

function backoffMs(failures: number): number {
  return Math.min(1000 * 2 ** failures, BACKOFF_MAX_MS);
}
