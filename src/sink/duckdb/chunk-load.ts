import { once } from 'node:events';
import duckdb, { type Connection } from '@duckdb/node-bindings';
import { messageOf, WaltideError } from '../../errors.ts';
import type { Delivery } from '../../event/batch.ts';
import type { ChangeEvent } from '../../event/change-event.ts';
import { type CopiedRows, CopyEvent } from '../../event/copied-rows.ts';
import { failpoint } from '../../failpoint.ts';
import type { Log } from '../../log.ts';
import type { Beside } from '../beside.ts';
import { notedName, settleChunk } from './chunk-settle.ts';
import { type DuckdbFile, isCommitted } from './database.ts';
import type { TableName } from './layout.ts';
import { Overtaken } from './overtaken.ts';
import type { RunTarget, TableWriter } from './table.ts';

/** Changes of more rows than this wait for the chunk. */
const KEYS_MAX = 50_000;

/** Rows for a shadow table. */
export interface Chunk {
  readonly chunk: readonly CopiedRows[];
  readonly target: RunTarget;
  readonly shadow: TableName;
}

export interface ChunkLoadOptions {
  readonly file: DuckdbFile;
  readonly tables: TableWriter;
  readonly log: Log;
  /** The last load before it. */
  readonly after: Promise<unknown>;
  /** Does work while nothing else writes to the file. */
  readonly turn: <T>(work: () => Promise<T>) => Promise<T>;
  /** A chunk is stored, and what it replaces is, too: before that has gone, nothing may be written. */
  readonly inPart: () => void;
}

/**
 * Loads a chunk into a shadow table in a transaction on a connection of its own, which begins once everything before the chunk
 * is committed, and is committed between two of the stream's. Rows that the stream has changed by then go again after that, as
 * do those that were there before: a transaction that deletes of its own rows is not stored as row groups, and one that deletes
 * others would be in the stream's way. Which they are is noted with the chunk (`chunk-settle.ts`), so that whoever dies between goes on with it.
 */
export class ChunkLoad implements Beside {
  readonly done: Promise<boolean>;
  readonly #delivery: Delivery;
  readonly #chunk: readonly CopiedRows[];
  readonly #target: RunTarget;
  readonly #shadow: TableName;
  readonly #options: ChunkLoadOptions;
  readonly #overtaken: Overtaken;
  readonly #loading: Promise<boolean>;
  #connection: Connection | null = null;
  #found = 0;
  readonly #given = new AbortController();

  constructor(delivery: Delivery, { chunk, target, shadow }: Chunk, options: ChunkLoadOptions) {
    this.#delivery = delivery;
    this.#chunk = chunk;
    this.#target = target;
    this.#shadow = shadow;
    this.#options = options;
    this.#overtaken = new Overtaken(target.relation, KEYS_MAX);
    this.#loading = this.#load();
    this.done = this.#loading.then((loaded) => loaded && options.turn(() => this.#commit()));
    // Looked at only when its turn comes.
    this.done.catch(() => {});
  }

  passes(events: readonly ChangeEvent[]): boolean {
    return this.#overtaken.passes(events);
  }

  async rest(): Promise<Delivery> {
    const kept = await this.#overtaken.kept(this.#chunk);
    const events = (this.#delivery.events as readonly CopyEvent[]).flatMap((event, block) => {
      const rows = kept[block];
      const { transaction, seq, tableSeq, lsn } = event;
      // Fewer rows in the event's own range of numbers: a letter is known by its position.
      return rows ? [new CopyEvent(transaction, seq, tableSeq, lsn, rows)] : [];
    });
    return { ...this.#delivery, events };
  }

  /** The file is about to be closed, or the table to go. Resolves once nothing of it is left. */
  async giveUp(): Promise<void> {
    this.#given.abort();
    // Repeated, since a statement that has only just begun may miss one.
    const timer = setInterval(() => this.#connection && duckdb.interrupt(this.#connection), 20);
    await this.#loading;
    clearInterval(timer);
    await this.#release();
  }

  async #load(): Promise<boolean> {
    const { file, tables, after, log } = this.#options;
    try {
      // Not only for it: its turn may never come where this is given up, too.
      await Promise.race([after, once(this.#given.signal, 'abort')]);
      if (this.#given.signal.aborted) return false;
      this.#connection = await file.connect();
      const writer = tables.on(this.#connection);
      await duckdb.query(this.#connection, 'BEGIN');
      await writer.insertCopied(this.#target, this.#chunk, false);
      const rows = this.#chunk.reduce((sum, { count }) => sum + count, 0);
      this.#found = await writer.noteFound(this.#target, notedName(this.#shadow), rows);
      failpoint('chunk-loaded');
      return true;
    } catch (error) {
      log.debug({ reason: messageOf(error) }, 'a chunk is applied in its turn');
      await this.#release();
      return false;
    }
  }

  async #commit(): Promise<boolean> {
    const { tables, log } = this.#options;
    const connection = this.#connection;
    if (this.#given.signal.aborted || !connection) return false;
    const writer = tables.on(connection);
    const { changed } = this.#overtaken;
    const noted = notedName(this.#shadow);
    let settles = this.#found > 0;
    try {
      if (changed.length > 0) settles = (await writer.noteGone(this.#target, noted, changed)) > 0 || settles;
      if (!settles) await duckdb.query(connection, `DROP TABLE ${noted}`);
      await duckdb.query(connection, 'COMMIT');
    } catch (error) {
      await this.#release();
      if (isCommitted(error)) throw this.#inPart(error);
      log.debug({ reason: messageOf(error) }, 'a chunk is applied in its turn');
      return false;
    }
    try {
      failpoint('chunk-committed');
      if (settles) await settleChunk(connection, { shadow: this.#shadow, relation: this.#target.relation });
      return true;
    } catch (error) {
      throw this.#inPart(error);
    } finally {
      await this.#release();
    }
  }

  #inPart(cause: unknown): WaltideError {
    this.#options.inPart();
    const what = `a chunk of ${this.#target.name} is stored, and what it replaces is, too: ${messageOf(cause)}`;
    return new WaltideError('SINK', what, 'Nothing to do: that goes when the file is opened again.', { cause });
  }

  async #release(): Promise<void> {
    const connection = this.#connection;
    this.#connection = null;
    if (!connection) return;
    await duckdb.query(connection, 'ROLLBACK').catch(() => undefined);
    duckdb.disconnect_sync(connection);
  }
}
