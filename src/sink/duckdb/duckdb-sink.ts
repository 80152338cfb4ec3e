import duckdb from '@duckdb/node-bindings';
import type { DuckdbSinkConfig } from '../../config/schema.ts';
import { messageOf, WaltideError } from '../../errors.ts';
import type { Delivery } from '../../event/batch.ts';
import type { Offset, SourceIdentity } from '../../event/offset.ts';
import type { Relation } from '../../event/relation.ts';
import { failpoint } from '../../failpoint.ts';
import type { Log } from '../../log.ts';
import { VERSION } from '../../version.ts';
import type { Losses } from '../losses.ts';
import type { QueryResult, Sink, SinkState } from '../sink.ts';
import { DuckdbFile, isCommitted, isFatal, isOutOfMemory, storeError } from './database.ts';
import { DeliveryWriter, type StopOptions } from './delivery.ts';
import { Loader } from './loader.ts';
import { excerptError } from './messages.ts';
import { runQuery } from './query.ts';
import { Rewinding } from './rewind.ts';
import { State } from './state.ts';
import { MisfitError } from './table.ts';

/** A delivery that needs more new enum labels and other changes of columns than this is not what it seems. */
const ADAPTIONS_MAX = 1000;
/** A delivery of more bytes than a batch usually has holds a long value. */
const LONG_BYTES = 32 << 20;
/** Measured: DuckDB holds a value of 64 MB about three times while it is stored. */
const LONG_FACTOR = 4;
/** Queries beyond these wait for nothing: they are refused, so that they cannot take all memory from applying. */
const QUERIES_MAX = 4;

/** A transactional sink: the rows of a delivery and its offsets are in one DuckDB transaction. */
export function createDuckdbSink(config: DuckdbSinkConfig, log: Log): Sink {
  return new DuckdbSink(config, log);
}

interface RunningQuery {
  readonly result: Promise<QueryResult>;
  stop(): void;
}

interface Opened {
  readonly file: DuckdbFile;
  readonly state: State;
  readonly writer: DeliveryWriter;
  readonly rewinding: Rewinding;
}

class DuckdbSink implements Sink {
  readonly name: string;
  readonly delivery = 'transactional';
  readonly #config: DuckdbSinkConfig;
  readonly #log: Log;
  #identity: SourceIdentity | null = null;
  #opened: Opened | null = null;
  readonly #queries = new Set<RunningQuery>();
  /** The last of what runs on the writing connection: one thing at a time. */
  #tail: Promise<unknown> = Promise.resolve();

  constructor(config: DuckdbSinkConfig, log: Log) {
    this.name = config.name;
    this.#config = config;
    this.#log = log;
  }

  open(identity: SourceIdentity): Promise<SinkState> {
    return this.#exclusive(async () => {
      this.#identity = identity;
      const { state } = await this.#ensureOpen();
      const tables = state.tables();
      return {
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

  apply(delivery: Delivery): Promise<boolean> {
    return this.#exclusive(async () => {
      const opened = await this.#ensureOpen();
      // A long value is held several times over on its way: there the limit gives way, for as long as it takes.
      const allowances = delivery.bytes > LONG_BYTES ? [0, delivery.bytes * LONG_FACTOR] : [0];
      try {
        await this.#write(opened, delivery);
      } catch (error) {
        await this.#withMore(opened, delivery, allowances, error);
      }
      return true;
    });
  }

  async #withMore(opened: Opened, delivery: Delivery, allowances: readonly number[], error: unknown): Promise<void> {
    const [bytes, ...others] = allowances;
    if (bytes === undefined || !(error instanceof WaltideError) || !isOutOfMemory(error.cause)) throw error;
    const what = bytes > 0 ? ` and ${Math.round(bytes / 2 ** 20)} MB more, for a long value` : '';
    this.#log.info({ sink: this.name }, `a batch needs more memory; trying once more with all of memoryLimit${what}`);
    await opened.file.allowMemory(bytes);
    try {
      await this.#write(opened, delivery);
    } catch (next) {
      await this.#withMore(opened, delivery, others, next);
    } finally {
      await opened.file.allowMemory(null).catch(() => undefined);
    }
  }

  /** One transaction, begun again for each column that must change before it can hold what came. */
  async #write(opened: Opened, delivery: Delivery): Promise<void> {
    for (let adaptions = 0; ; adaptions++) {
      try {
        let passed = false;
        await this.#transaction(opened, async () => {
          const { delivery: sifted, seen } = opened.rewinding.sift(delivery);
          await opened.writer.write(sifted, seen);
          await opened.state.saveOffsets(delivery.offsets);
          passed = await opened.rewinding.passed(delivery.offsets);
        });
        if (passed) opened.rewinding.ended();
        return;
      } catch (error) {
        if (!(error instanceof MisfitError)) throw error;
        if (adaptions >= ADAPTIONS_MAX) throw excerptError(error.relation, error.column, error);
        opened.writer.adapt(error);
      }
    }
  }

  stopTable(relation: Relation, reason: string, options: StopOptions): Promise<void> {
    return this.#exclusive(async () => {
      const opened = await this.#ensureOpen();
      await this.#transaction(opened, () => opened.writer.stop(relation, reason, options));
    });
  }

  rewind(to: readonly Offset[], tables: readonly { schema: string; table: string }[] | null): Promise<void> {
    return this.#exclusive(async () => {
      const opened = await this.#ensureOpen();
      await this.#transaction(opened, () => opened.rewinding.begin(to, tables));
      this.#opened = null;
      await this.#closeFile(opened.file);
    });
  }

  async query(sql: string, limits: { rowsMax: number; timeoutMs: number }): Promise<QueryResult> {
    const { file } = this.#opened ?? {};
    if (!file) throw new WaltideError('SINK_QUERY', 'the sink is not open', 'Query while the pipeline runs.');
    if (this.#queries.size >= QUERIES_MAX) {
      throw new WaltideError(
        'SINK_QUERY',
        `${QUERIES_MAX} queries are running already`,
        'Try again when one of them has ended.',
      );
    }
    const query = this.#query(file, sql, limits);
    this.#queries.add(query);
    try {
      return await query.result;
    } finally {
      this.#queries.delete(query);
    }
  }

  #query(file: DuckdbFile, sql: string, limits: { rowsMax: number; timeoutMs: number }): RunningQuery {
    const abort = new AbortController();
    const run = async (): Promise<QueryResult> => {
      const connection = await file.connect();
      try {
        return await runQuery(connection, sql, { ...limits, signal: abort.signal });
      } finally {
        duckdb.disconnect_sync(connection);
      }
    };
    return { result: run(), stop: () => abort.abort() };
  }

  /** A file is closed only when nothing reads it any more: else opening it again would open it twice. */
  async #closeFile(file: DuckdbFile): Promise<void> {
    for (const query of this.#queries) query.stop();
    await Promise.allSettled([...this.#queries].map(({ result }) => result));
    file.close();
  }

  losses(): Losses | null {
    return this.#opened?.writer.losses ?? null;
  }

  close(): Promise<void> {
    return this.#exclusive(async () => {
      const opened = this.#opened;
      this.#opened = null;
      this.#identity = null;
      if (!opened) return;
      await opened.file.allowMemory(0).catch(() => undefined);
      await duckdb.query(opened.file.connection, 'CHECKPOINT').catch((error: unknown) => {
        // The log of the file holds everything that was applied; the next start reads it.
        this.#log.warn({ sink: this.name, reason: messageOf(error) }, 'the last checkpoint failed');
      });
      await this.#closeFile(opened.file);
    });
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => undefined);
    return result;
  }

  async #ensureOpen(): Promise<Opened> {
    if (this.#opened) return this.#opened;
    const identity = this.#identity;
    if (!identity)
      throw new WaltideError(
        'INTERNAL',
        `sink ${this.name} is used before open() or after close()`,
        'Please report this.',
      );
    const file = await DuckdbFile.open(this.#config);
    try {
      const state = new State(file.connection);
      await state.load(identity, file.path, VERSION);
      const writer = new DeliveryWriter(file, state, new Loader(file.connection, this.#config.rowBytesMax), {
        onUnrepresentable: this.#config.onUnrepresentable,
        rowBytesMax: this.#config.rowBytesMax,
        schemaChanges: this.#config.schemaChanges,
        droppedTables: this.#config.droppedTables,
        log: this.#log.child({ sink: this.name }),
      });
      this.#opened = { file, state, writer, rewinding: await Rewinding.load(file.connection, state) };
      return this.#opened;
    } catch (error) {
      file.close();
      throw storeError(`reading the state in ${file.path}`, error);
    }
  }

  /** Everything or nothing. What fails is neither in the file nor in the state afterwards. */
  async #transaction(opened: Opened, work: () => Promise<void>): Promise<void> {
    const { connection } = opened.file;
    try {
      await duckdb.query(connection, 'BEGIN');
      await opened.writer.begin();
      await work();
      await this.#commit(opened);
      opened.state.committed();
    } catch (error) {
      opened.state.rolledBack();
      // A failed COMMIT has rolled back by itself.
      await duckdb.query(connection, 'ROLLBACK').catch(() => undefined);
      if (isFatal(error)) {
        this.#log.warn(
          { sink: this.name, reason: messageOf(error) },
          'DuckDB gave up; the file is opened again for the next delivery',
        );
        this.#opened = null;
        await this.#closeFile(opened.file);
      }
      if (error instanceof MisfitError) throw error;
      throw storeError(`writing to ${opened.file.path}`, error);
    }
  }

  async #commit({ file }: Opened): Promise<void> {
    failpoint('before-sink-commit');
    try {
      await duckdb.query(file.connection, 'COMMIT');
      failpoint('after-sink-commit');
    } catch (error) {
      if (!isCommitted(error)) throw error;
      // As an error it would be applied again, and be there twice.
      const reason = messageOf(error);
      this.#log.info({ sink: this.name, reason }, 'the file is opened again after a failed checkpoint');
      this.#opened = null;
      await this.#closeFile(file);
    }
  }
}
