import { stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import duckdb, { type Connection } from '@duckdb/node-bindings';
import type { DuckdbSinkConfig } from '../../config/schema.ts';
import type { Letters } from '../../dead-letter/dead-letter.ts';
import { messageOf, WaltideError } from '../../errors.ts';
import type { Delivery } from '../../event/batch.ts';
import type { Offset, SourceIdentity } from '../../event/offset.ts';
import type { Relation } from '../../event/relation.ts';
import type { Log } from '../../log.ts';
import type { Beside } from '../beside.ts';
import type { Losses } from '../losses.ts';
import type { QueryResult, Sink, SinkState } from '../sink.ts';
import type { Optimized } from '../upkeep.ts';
import { type DuckdbFile, storeError } from './database.ts';
import type { StopOptions } from './delivery.ts';
import { DuckdbDigests, heldName } from './digest.ts';
import type { Held } from './digest-sql.ts';
import { bytesOf, copyStore, logPath } from './file-copy.ts';
import { optimizeFile } from './optimize.ts';
import { readOnly, runQuery } from './query.ts';
import { Session } from './session.ts';

/** Queries beyond these wait for nothing: they are refused, so that they cannot take all memory from applying. */
const QUERIES_MAX = 4;

/** A transactional sink: the rows of a delivery and its offsets are in one DuckDB transaction. */
export function createDuckdbSink(config: DuckdbSinkConfig, log: Log): Sink {
  return new DuckdbSink(config, log);
}

/** How often it is looked whether a transaction of several deliveries has ended. */
const BETWEEN_POLL_MS = 100;

/** How often the file is opened again for one delivery: once for each step of memory that was not enough. */
const REOPENED_MAX = 4;

interface RunningQuery<T = unknown> {
  readonly result: Promise<T>;
  stop(): void;
}

class DuckdbSink implements Sink {
  readonly name: string;
  readonly delivery = 'transactional';
  readonly takesCopies = true;
  readonly setsAside = true;
  readonly #config: DuckdbSinkConfig;
  readonly #log: Log;
  #identity: SourceIdentity | null = null;
  #letters: Letters | null = null;
  #session: Session | null = null;
  readonly #queries = new Set<RunningQuery>();
  readonly digests = new DuckdbDigests(
    (relation) => this.#held(relation),
    (work, signal) => this.#digesting(work, signal),
  );
  /** The last of what runs on the writing connection: one thing at a time. */
  #tail: Promise<unknown> = Promise.resolve();

  constructor(config: DuckdbSinkConfig, log: Log) {
    this.name = config.name;
    this.#config = config;
    this.#log = log;
  }

  open(identity: SourceIdentity, letters?: Letters): Promise<SinkState> {
    this.#identity = identity;
    this.#letters = letters ?? null;
    return this.#withSession(async ({ state, file, rewinds }) => {
      // While some tables alone are replayed, those of others do not come again.
      if (!rewinds) await this.#letters?.takeBack(state.offsets());
      const tables = state.tables();
      return {
        instance: await instanceOf(state.storeId, file.path),
        offsets: state.offsets(),
        timeline: state.timeline,
        stopped: tables.flatMap(({ schema, table, stopped: reason, because }) =>
          reason === null || because ? [] : [{ schema, table, reason }],
        ),
        // A dropped table is nothing that could come.
        tables: tables
          .filter(({ because, shadow }) => because !== 'dropped' || shadow)
          .map(({ schema, table, live, stopped, shadow }) => ({
            schema,
            table,
            oid: (live ?? shadow)?.relation.oid ?? 0,
            live: live !== null && stopped === null,
            filling: shadow?.snapshot ?? null,
          })),
      };
    });
  }

  async apply(delivery: Delivery): Promise<boolean> {
    for (let reopened = 0; ; reopened++) {
      let session: Session | null = null;
      let lost = false;
      try {
        return await this.#withSession((open) => {
          session = open;
          lost = open.begun;
          return open.apply(delivery);
        });
      } catch (error) {
        // A file that must be opened again is a matter of this sink, unless a transaction was lost with it.
        const { broken = false } = (session as Session | null) ?? {};
        if (!broken || lost || reopened === REOPENED_MAX) throw error;
      }
    }
  }

  beside(delivery: Delivery): Promise<Beside | null> {
    return this.#withSession((session) => session.beside(delivery, (work) => this.#exclusive(work)));
  }

  stopTable(relation: Relation, reason: string, options: StopOptions): Promise<void> {
    return this.#withSession(async (session) => {
      await session.giveUpLoads();
      await session.transaction((writer) => writer.stop(relation, reason, options));
    });
  }

  rewind(to: readonly Offset[], tables: readonly { schema: string; table: string }[] | null): Promise<void> {
    return this.#withSession(async (session) => {
      await session.giveUpLoads();
      await session.rewind(to, tables);
      this.#session = null;
      await this.#closeFile(session);
    });
  }

  async query(sql: string, limits: { rowsMax: number; timeoutMs: number }): Promise<QueryResult> {
    const { file } = this.#session ?? {};
    if (!file) throw new WaltideError('SINK_QUERY', 'the sink is not open', 'Query while the pipeline runs.');
    if (this.#queries.size >= QUERIES_MAX) {
      throw new WaltideError(
        'SINK_QUERY',
        `${QUERIES_MAX} queries are running already`,
        'Try again when one of them has ended.',
      );
    }
    return this.#reading(file, (connection, signal) => runQuery(connection, sql, { ...limits, signal }));
  }

  /** On a connection of its own; `signal` aborts where the file is about to be closed. */
  #reading<T>(file: DuckdbFile, work: (connection: Connection, signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#track(async (signal) => {
      const connection = await file.connect();
      try {
        return await work(connection, signal);
      } finally {
        duckdb.disconnect_sync(connection);
      }
    });
  }

  /** The file is not closed before it has ended; `signal` aborts where it is about to be. */
  async #track<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const abort = new AbortController();
    const query: RunningQuery<T> = { result: work(abort.signal), stop: () => abort.abort() };
    this.#queries.add(query);
    try {
      return await query.result;
    } finally {
      this.#queries.delete(query);
    }
  }

  async #digesting<T>(work: (connection: Connection) => Promise<T>, signal: AbortSignal): Promise<T> {
    const { file } = this.#session ?? {};
    const closed = (cause?: unknown): WaltideError => closedWhile(this.name, 'compared', cause);
    if (!file) throw closed();
    return this.#reading(file, async (connection, closing) => {
      const either = AbortSignal.any([closing, signal]);
      try {
        return await readOnly(connection, either, () => work(connection));
      } catch (error) {
        signal.throwIfAborted();
        if (closing.aborted) throw closed(error);
        throw storeError('comparing rows', error);
      }
    });
  }

  /** The file as it is between two transactions, with its offsets. Rows are applied meanwhile. */
  async copyTo(path: string, signal: AbortSignal): Promise<readonly Offset[]> {
    if (!this.#identity) throw closedWhile(this.name, 'to be copied');
    const copy = await this.#withSession(async ({ file, state }) => {
      const logBytes = await bytesOf(logPath(file.path));
      await file.holdCheckpoints(true);
      const result = this.#track((closing) =>
        copyStore({ fd: file.readFd, path: file.path }, logBytes, path, AbortSignal.any([closing, signal])),
      );
      return { file, result, offsets: state.offsets() };
    });
    try {
      await copy.result;
      return copy.offsets;
    } catch (error) {
      signal.throwIfAborted();
      throw error instanceof WaltideError ? error : closedWhile(this.name, 'copied', error);
    } finally {
      await this.#exclusive(async () => {
        if (this.#session?.file === copy.file) await copy.file.holdCheckpoints(false);
      });
    }
  }

  /** Between two transactions; nothing is applied meanwhile. */
  async optimize(signal: AbortSignal): Promise<Optimized> {
    if (!this.#identity) throw closedWhile(this.name, 'to be optimized');
    for (;;) {
      signal.throwIfAborted();
      const optimized = await this.#withSession(async ({ file, begun, loading }) =>
        begun || loading ? null : optimizeFile(file),
      );
      if (optimized) return optimized;
      await sleep(BETWEEN_POLL_MS, undefined, { signal }).catch(() => undefined);
    }
  }

  #held(relation: Relation): Held | null {
    const { state, file } = this.#session ?? {};
    const table = state?.table(relation);
    if (!table?.live || table.stopped !== null) return null;
    return { name: heldName(file!.catalog, table), table };
  }

  /** A file is closed only when nothing reads it any more: else opening it again would open it twice. */
  async #closeFile(session: Session): Promise<void> {
    await session.giveUpLoads();
    await this.#endQueries();
    session.file.close();
  }

  async #endQueries(): Promise<void> {
    for (const query of this.#queries) query.stop();
    await Promise.allSettled([...this.#queries].map(({ result }) => result));
  }

  relationOf(oid: number): Relation | null {
    return this.#session?.state.tables().find(({ live }) => live?.relation.oid === oid)?.live?.relation ?? null;
  }

  losses(): Losses | null {
    return this.#session?.losses ?? null;
  }

  close(): Promise<void> {
    return this.#exclusive(async () => {
      const session = this.#session;
      this.#session = null;
      this.#identity = null;
      if (!session) return;
      await session.rollBack();
      await session.giveUpLoads();
      // A file that is being copied is not checkpointed.
      await this.#endQueries();
      await session.file.allowMemory(0).catch(() => undefined);
      await duckdb.query(session.file.connection, 'CHECKPOINT').catch((error: unknown) => {
        // The log of the file holds everything that was applied; the next start reads it.
        this.#log.warn({ sink: this.name, reason: messageOf(error) }, 'the last checkpoint failed');
      });
      await this.#closeFile(session);
    });
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => undefined);
    return result;
  }

  /** Opens the file where it is not, and closes it where DuckDB wants it to be opened again. */
  #withSession<T>(work: (session: Session) => Promise<T>): Promise<T> {
    return this.#exclusive(async () => {
      const identity = this.#identity;
      if (!identity)
        throw new WaltideError(
          'INTERNAL',
          `sink ${this.name} is used before open() or after close()`,
          'Please report this.',
        );
      // What was beside the stream may have broken it.
      if (this.#session?.broken) {
        const { begun } = this.#session;
        await this.#leave(this.#session);
        if (begun) throw closedWhile(this.name, 'in the middle of a transaction');
      }
      const reading = (): boolean => this.#queries.size > 0;
      const options = { config: this.#config, letters: this.#letters, log: this.#log, reading };
      const session = this.#session ?? (await Session.open(options, identity));
      this.#session = session;
      try {
        return await work(session);
      } finally {
        if (session.broken) await this.#leave(session);
      }
    });
  }

  async #leave(session: Session): Promise<void> {
    this.#session = null;
    await this.#closeFile(session);
  }
}

function closedWhile(sink: string, doing: string, cause?: unknown): WaltideError {
  return new WaltideError('SINK', `sink ${sink} was closed while it was ${doing}`, 'It is tried again.', { cause });
}

/** A copy of a file has its id, and on one machine another place on the disk. */
async function instanceOf(storeId: string, path: string): Promise<string> {
  const { dev, ino } = await stat(path);
  return `${storeId}@${dev}:${ino}`;
}
