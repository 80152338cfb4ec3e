import duckdb from '@duckdb/node-bindings';
import type { DuckdbSinkConfig } from '../../config/schema.ts';
import type { Letters } from '../../dead-letter/dead-letter.ts';
import { messageOf, RejectedError, WaltideError } from '../../errors.ts';
import type { Delivery } from '../../event/batch.ts';
import type { Lsn } from '../../event/lsn.ts';
import type { Offset, SourceIdentity } from '../../event/offset.ts';
import { failpoint } from '../../failpoint.ts';
import type { Log } from '../../log.ts';
import { VERSION } from '../../version.ts';
import type { Losses } from '../losses.ts';
import { Adaptions } from './adaptions.ts';
import { ChunkLoad } from './chunk-load.ts';
import { settleAll } from './chunk-settle.ts';
import { DuckdbFile, firstLine, isCommitted, isConflict, isFatal, isOutOfMemory, storeError } from './database.ts';
import { DeliveryWriter, type Learnt } from './delivery.ts';
import { Loader } from './loader.ts';
import { Memory } from './memory.ts';
import { excerptError } from './messages.ts';
import { shadowTable, targetSchema } from './names.ts';
import { Rewinding } from './rewind.ts';
import { State } from './state.ts';
import { MisfitError } from './table.ts';

/** A delivery that needs more new enum labels and other changes of columns than this is not what it seems. */
const ADAPTIONS_MAX = 1000;
/** Parts of a source transaction are never committed for being fewer bytes than this together. */
const TRANSACTION_BYTES_MIN = 4 << 20;

interface SinkLearnt extends Learnt {
  transactionBytesMax: number;
  readonly memory: Memory;
}

/** By sink: what it has learnt must be known again when it is closed and opened, to begin a transaction again. */
const learnt = new WeakMap<DuckdbSinkConfig, SinkLearnt>();

function learntOf(config: DuckdbSinkConfig): SinkLearnt {
  const { transactionBytesMax } = config;
  const known = learnt.get(config) ?? {
    adaptions: new Adaptions(),
    watched: new Set(),
    transactionBytesMax,
    memory: new Memory(),
  };
  learnt.set(config, known);
  return known;
}

/** The parts of one source transaction that are written and not committed. */
interface Parts {
  readonly commitLsn: Lsn;
  readonly offsets: Map<string, Offset>;
  bytes: number;
}

export interface SessionOptions {
  readonly config: DuckdbSinkConfig;
  readonly letters: Letters | null;
  readonly log: Log;
  /** A query runs, or something else that reads. */
  readonly reading: () => boolean;
}

/** One open file and its one writing transaction, which a source transaction in several deliveries keeps open. */
export class Session {
  readonly file: DuckdbFile;
  readonly state: State;
  readonly #writer: DeliveryWriter;
  readonly #name: string;
  readonly #learnt: SinkLearnt;
  readonly #log: Log;
  readonly #rewinding: Rewinding;
  #parts: Parts | null = null;
  readonly #loads = new Set<ChunkLoad>();
  readonly #reading: () => boolean;
  readonly #threads: number;
  /** Nothing more is to be written until the file is opened again. */
  broken = false;

  private constructor(file: DuckdbFile, state: State, rewinding: Rewinding, options: SessionOptions) {
    const { config, letters, log, reading } = options;
    this.#reading = reading;
    this.#threads = config.threads;
    this.#rewinding = rewinding;
    this.file = file;
    this.state = state;
    this.#name = config.name;
    this.#learnt = learntOf(config);
    this.#log = log;
    this.#writer = new DeliveryWriter(file, state, new Loader(file.connection, config.rowBytesMax), {
      rowBytesMax: config.rowBytesMax,
      onUnrepresentable: config.onUnrepresentable,
      schemaChanges: config.schemaChanges,
      droppedTables: config.droppedTables,
      learnt: this.#learnt,
      letters,
      log: log.child({ sink: config.name }),
    });
  }

  static async open(options: SessionOptions, identity: SourceIdentity): Promise<Session> {
    const { config } = options;
    const file = await DuckdbFile.open(config);
    try {
      const state = new State(file.connection);
      await state.load(identity, file.path, VERSION);
      const shadows = state.tables().flatMap(({ schema, table, shadow }) => {
        const name = { catalog: file.catalog, schema: targetSchema(schema), table: shadowTable(table) };
        return shadow ? [{ shadow: name, relation: shadow.relation }] : [];
      });
      await settleAll(file.connection, shadows);
      return new Session(file, state, await Rewinding.load(file.connection, state), options);
    } catch (error) {
      file.close();
      throw storeError(`reading the state in ${file.path}`, error);
    }
  }

  /** Changes that are in the file already come once more. */
  get rewinds(): boolean {
    return this.#rewinding.active;
  }

  /** A source transaction is written in part, and open. */
  get begun(): boolean {
    return this.#parts !== null;
  }

  get losses(): Losses {
    return this.#writer.losses;
  }

  /** As `Sink.beside`. */
  async beside(delivery: Delivery, turn: <T>(work: () => Promise<T>) => Promise<T>): Promise<ChunkLoad | null> {
    if (this.broken || this.rewinds) return null;
    await this.#endBefore(delivery);
    if (this.#parts) return null;
    const chunk = this.#writer.chunkOf(delivery.events);
    if (!chunk) return null;
    const { file } = this;
    const { tables } = this.#writer;
    const after = Promise.allSettled([...this.#loads].map(({ done }) => done));
    const inPart = (): void => {
      this.broken = true;
    };
    const beside = new ChunkLoad(delivery, chunk, { file, tables, log: this.#log, after, turn, inPart });
    this.#loads.add(beside);
    const over = (): void => void this.#loads.delete(beside);
    beside.done.then(over, over);
    return beside;
  }

  /** A chunk is being loaded beside the stream. */
  get loading(): boolean {
    return this.#loads.size > 0;
  }

  /** Nothing of the chunks that are being loaded stays. */
  async giveUpLoads(): Promise<void> {
    await Promise.all([...this.#loads].map((load) => load.giveUp()));
  }

  async #endBefore({ events: [next] }: Delivery): Promise<void> {
    // The transaction has ended, though it could not be known when its last part came.
    if (!this.#parts || !next || next.transaction.commitLsn === this.#parts.commitLsn) return;
    await this.#end(this.#parts).catch(async (error: unknown) => Promise.reject(await this.#fail(error)));
  }

  /** As `Sink.apply`. What fails takes with it all parts of its source transaction that came before. */
  async apply(delivery: Delivery): Promise<boolean> {
    await this.#endBefore(delivery);
    if (this.#parts) return this.#continue(this.#parts, delivery);
    return this.#beginWithin(delivery);
  }

  /** Again with more memory where there is not enough. */
  async #beginWithin(delivery: Delivery): Promise<boolean> {
    const { memory } = this.#learnt;
    for (;;) {
      await this.file.allowMemory(memory.bytes(delivery.bytes, this.file.memoryBytes));
      try {
        return await this.#begin(delivery);
      } catch (error) {
        if (!(error instanceof WaltideError) || !isOutOfMemory(error.cause) || !memory.raise()) throw error;
        const reason = firstLine(messageOf(error.cause));
        this.#log.info({ sink: this.#name, step: memory.step, reason }, 'a batch needs more memory; trying once more');
      }
    }
  }

  /** Everything or nothing, in a transaction of its own. */
  async transaction(work: (writer: DeliveryWriter) => Promise<void>): Promise<void> {
    try {
      await duckdb.query(this.file.connection, 'BEGIN');
      await this.#writer.begin();
      await work(this.#writer);
      await this.#commit([]);
    } catch (error) {
      throw await this.#fail(error);
    }
  }

  /** As `Sink.rewind`; the file is to be opened again afterwards. */
  rewind(to: readonly Offset[], tables: readonly { schema: string; table: string }[] | null): Promise<void> {
    return this.transaction(() => this.#rewinding.begin(to, tables));
  }

  async #write(delivery: Delivery): Promise<void> {
    for (const { delivery: sifted, seen } of this.#rewinding.sift(delivery)) await this.#writer.write(sifted, seen);
  }

  /** Gives up what is not committed. */
  async rollBack(): Promise<void> {
    this.#parts = null;
    this.state.rolledBack();
    // A failed COMMIT has rolled back by itself.
    await duckdb.query(this.file.connection, 'ROLLBACK').catch(() => undefined);
  }

  /** A transaction, begun again for each column that must change before it can hold what came. */
  async #begin(delivery: Delivery): Promise<boolean> {
    for (let adaptions = 0; ; adaptions++) {
      try {
        await duckdb.query(this.file.connection, 'BEGIN');
        await this.#writer.begin();
        await this.#write(delivery);
        const last = delivery.events.at(-1);
        if (delivery.complete || !last) {
          await this.#commit(delivery.offsets);
          return true;
        }
        this.#parts = { commitLsn: last.transaction.commitLsn, offsets: new Map(), bytes: 0 };
        return await this.#wait(this.#parts, delivery);
      } catch (error) {
        const failure = await this.#fail(error);
        if (!(failure instanceof MisfitError)) throw failure;
        if (adaptions >= ADAPTIONS_MAX) throw excerptError(failure.relation, failure.column, failure);
        this.#writer.adapt(failure);
      }
    }
  }

  async #continue(parts: Parts, delivery: Delivery): Promise<boolean> {
    try {
      await this.#write(delivery);
      if (!delivery.complete) return await this.#wait(parts, delivery);
      for (const offset of delivery.offsets) parts.offsets.set(offset.partition, offset);
      await this.#end(parts);
      return true;
    } catch (error) {
      const failure = await this.#fail(error);
      if (failure instanceof MisfitError) {
        this.#writer.adapt(failure);
        throw columnChanges(failure);
      }
      if (failure instanceof WaltideError && isOutOfMemory(failure.cause))
        this.#learnt.transactionBytesMax = Math.max(TRANSACTION_BYTES_MIN, Math.floor(parts.bytes / 2));
      throw failure;
    }
  }

  /** Leaves the transaction open, unless it has become too large and can be taken up in the middle. */
  async #wait(parts: Parts, { bytes, offsets }: Delivery): Promise<boolean> {
    parts.bytes += bytes;
    for (const offset of offsets) parts.offsets.set(offset.partition, offset);
    if (parts.bytes < this.#learnt.transactionBytesMax || offsets.length === 0) return false;
    await this.#end(parts);
    return true;
  }

  async #end({ offsets }: Parts): Promise<void> {
    await this.#commit([...offsets.values()]);
    this.#parts = null;
  }

  async #commit(offsets: readonly Offset[]): Promise<void> {
    await this.state.saveOffsets(offsets);
    const replayed = await this.#rewinding.passed(offsets);
    await this.#writer.end();
    failpoint('before-sink-commit');
    await duckdb.query(this.file.connection, 'COMMIT').catch((error: unknown) => {
      if (!isCommitted(error)) throw error;
      // As an error it would be applied again, and be there twice.
      this.broken = true;
      const reason = messageOf(error);
      this.#log.info({ sink: this.#name, reason }, 'the file is opened again after a failed checkpoint');
    });
    failpoint('after-sink-commit');
    this.state.committed();
    if (replayed) this.#rewinding.ended();
    if (!this.broken) await this.#suit();
  }

  /** Settings that suit what is going on. Without them all is as right, and what is committed must not look as if it were not. */
  async #suit(): Promise<void> {
    const { filling, refilling } = this.state;
    try {
      await this.file.tidy(filling ? 'nothing' : 'little');
      // In DuckDB, who waits for another thread's part of a statement turns round and round meanwhile; chunks and changes together
      // have enough to do. Not while somebody reads: threads go at the end of what they are at.
      if (!this.#reading()) await this.file.useThreads(refilling ? 1 : this.#threads);
    } catch (error) {
      this.#log.warn({ sink: this.#name, reason: messageOf(error) }, 'a setting of DuckDB could not be changed');
    }
  }

  /** Rolls back. Nothing of what failed is in the file or in the state afterwards. */
  async #fail(error: unknown): Promise<unknown> {
    await this.rollBack();
    // Nobody else writes, so that a conflict is with what a statement left behind that ran out of memory: rows marked as deleted
    // by a transaction that is no more. They are there for readers and for the log, but not to be deleted until it is opened again.
    if (isFatal(error) || isConflict(error)) {
      this.broken = true;
      this.#log.warn(
        { sink: this.#name, reason: messageOf(error) },
        'DuckDB gave up; the file is opened again for the next delivery',
      );
    }
    if (error instanceof MisfitError || error instanceof RejectedError) return error;
    return storeError(`writing to ${this.file.path}`, error);
  }
}

function columnChanges({ relation, column, message }: MisfitError): WaltideError {
  return new WaltideError(
    'SINK',
    `column "${column}" of ${relation.schema}.${relation.table} must change in the middle of a transaction: ${message}`,
    'Nothing to do: the transaction is applied again.',
  );
}
