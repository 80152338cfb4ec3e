import { randomBytes } from 'node:crypto';
import { messageOf, WaltideError } from '../errors.ts';
import { ChangeEvent, type Transaction } from '../event/change-event.ts';
import { LARGE_CHUNK_ROWS } from '../event/copied-rows.ts';
import type { Relation } from '../event/relation.ts';
import type { Row } from '../event/row.ts';
import { failpoint } from '../failpoint.ts';
import {
  type KeyText,
  type Layout,
  type SnapshotProgress as SavedProgress,
  type SnapshotRecord,
  type SnapshotState,
  saveSnapshot,
} from '../postgres/snapshots.ts';
import { writersGone } from '../postgres/writers.ts';
import { absentKeys, chunkEvents } from './chunk-events.ts';
import { type Chunk, ChunkReader } from './chunk-reader.ts';
import { ChunkSize, chunkBounds } from './chunk-size.ts';
import { endEvent, inSession, type SnapshotContext, WatermarkWriter } from './context.ts';
import { waitAside } from './quiet.ts';
import { type Reread, Rereads } from './rereads.ts';
import { retrying } from './retry.ts';
import { progressOf, type SnapshotProgress } from './snapshot.ts';
import { checkWhere, describeTable, layoutOf, needsNewStart, type Selection, type TableShape } from './table-shape.ts';
import { TableWatch } from './table-watch.ts';

/** What a chunk that was woven leads to. */
interface Outcome {
  /** Nothing of it was used: read again. */
  readonly void: boolean;
  /** The end of the snapshot went with it. */
  readonly ended: boolean;
}

/** One incremental snapshot of a table with a key, from its first chunk to its end or until it is told to stop. */
export class TableRun {
  readonly record: SnapshotRecord;
  readonly #context: SnapshotContext;
  readonly #watch: TableWatch;
  readonly #reader: ChunkReader;
  readonly #watermarks: WatermarkWriter;
  readonly #rereads: Rereads;
  #shape: TableShape | null = null;
  #begun: boolean;
  /** Null: nothing has been read, or what has been is void. */
  #layout: Layout | null;
  #movesSaved: Promise<unknown> | null = null;
  #cursor: KeyText | null;
  /** The end of the table has been reached: what is left is to be read once more. */
  #copied = false;
  #rows: number;
  #bytes: number;
  readonly #size: ChunkSize;
  #marks = 0;

  /** From here on the run watches its table, so that nothing slips by between the process's start and the run's. */
  constructor(record: SnapshotRecord, context: SnapshotContext) {
    this.record = record;
    this.#context = context;
    this.#begun = record.begun;
    this.#layout = record.layout;
    this.#cursor = record.cursor;
    this.#rows = record.rows;
    this.#bytes = record.bytes;
    this.#rereads = new Rereads(record.rereads);
    const { notedKeysMax } = context.config.snapshot;
    const bounds = chunkBounds(record, context.config);
    this.#size = new ChunkSize(bounds);
    this.#watch = new TableWatch(record.tableOid, notedKeysMax, (from, to) => this.#moved(from, to));
    const connect = (what: string) => () => context.connect(`${what} ${record.id}`);
    this.#reader = new ChunkReader(connect('snapshot'), bounds);
    this.#watermarks = new WatermarkWriter(connect('watermark'));
    if (this.#begun) context.weave.watch(this.#watch);
  }

  /** Resolves with true once all of it is durable downstream, with false where its state was changed by somebody. */
  async run(signal: AbortSignal): Promise<boolean> {
    const over = new AbortController();
    try {
      return await this.#run(AbortSignal.any([signal, over.signal]));
    } finally {
      // A chunk may be read ahead, or wait for that.
      over.abort();
      this.#watch.stopNoting();
      this.#reader.close();
      await this.#watermarks.close();
    }
  }

  /** Tells the sinks that it is void, where they know of it. Resolves once that is durable downstream. */
  async cancel(signal: AbortSignal): Promise<void> {
    if (this.#begun && this.record.kind === 'incremental')
      await this.#insert((transaction) => [endEvent(transaction, 1, 1, this.#relation(), 'cancelled')], signal);
    await this.#watermarks.close();
  }

  /** Stops watching. */
  close(): void {
    this.#context.weave.unwatch(this.#watch);
  }

  progress(state: SnapshotProgress['state']): SnapshotProgress {
    const estimatedRows = this.#estimatedRows;
    return progressOf(this.record, state, { rows: this.#rows, bytes: this.#bytes, estimatedRows });
  }

  get #estimatedRows(): number {
    return this.#shape?.table.estimatedRows || this.record.estimatedRows;
  }

  async #run(signal: AbortSignal): Promise<boolean> {
    await this.#start(await this.#describe(signal), signal);
    let next: Promise<Chunk | null> | null = null;
    let reread = false;
    for (this.#copied = false; ; ) {
      if (this.#layout === null) {
        await next;
        next = null;
        await this.#reshape(signal);
      }
      // In turns: rows that move all the time must not keep the others from being read.
      reread = this.#copied || (this.#rereads.full && !reread);
      const keys: readonly Reread[] = reread ? this.#rereads.batch() : [];
      if (reread && keys.length === 0) {
        if (await this.#end(signal)) return true;
        continue;
      }
      failpoint('before-chunk');
      if (reread) await next;
      const chunk: Chunk | null = await (reread
        ? this.#read({ keys: keys.map(({ key }) => key) }, signal)
        : (next ?? this.#read(this.#range(this.#cursor), signal)));
      next = null;
      if (!chunk) {
        await this.#reshape(signal);
        continue;
      }
      // Which keys have no row is known only where all rows came; a row too large for any chunk comes alone.
      if (reread && !chunk.whole && keys.length > 1) {
        this.#rereads.tooMany(keys);
        continue;
      }
      // The next one is read while this one waits for its place in the stream.
      if (!reread && !chunk.whole) next = this.#prefetch(chunk, signal);
      const outcome = await this.#weave(chunk, reread ? keys : null, signal);
      if (outcome.void) {
        await next;
        next = null;
        continue;
      }
      const state = await this.#saveChunk(chunk, reread ? keys : null, signal);
      if (outcome.ended) return true;
      if (state !== 'running') return false;
      this.#copied ||= !reread && chunk.whole;
    }
  }

  async #describe(signal: AbortSignal): Promise<TableShape> {
    const { record } = this;
    const shape = await inSession(this.#context, record, signal, async (client, table) => {
      const described = await describeTable(client, this.#context.publications, table);
      if (record.where !== null) await checkWhere(client, described, record.where);
      return described;
    });
    if (shape.key.length === 0)
      throw new WaltideError(
        'TABLES',
        `table ${record.schema}.${record.table} has lost its key, so its chunks cannot be told apart`,
        'Start the snapshot again: a table without a key is copied in one piece.',
      );
    this.#watch.keyColumns = shape.key.map(({ index }) => index);
    this.#shape = shape;
    return shape;
  }

  /** Begins, or goes on where rows read before can stand beside those read from now on. */
  async #start(shape: TableShape, signal: AbortSignal): Promise<void> {
    const layout = layoutOf(shape);
    const fresh = this.#layout === null || needsNewStart(this.#layout, layout);
    if (fresh) await this.#discard();
    await this.#note(shape, fresh && this.record.kind === 'incremental', signal);
    if (fresh) {
      this.#layout = layout;
      this.#begun = this.record.kind === 'incremental';
      const { estimatedRows } = shape.table;
      const nothing = { cursor: null, rows: 0, bytes: 0, rereads: this.#rereads.keys() };
      await this.#save({ begun: this.#begun, layout, estimatedRows, ...nothing });
      this.#context.log.debug({ table: this.record.table, snapshot: this.record.id }, 'snapshot begun');
    }
    await this.#quiet(signal);
  }

  /** What has been read is void. That is saved before the sinks are told: a process that dies between must not go on. */
  async #discard(): Promise<void> {
    if (this.#layout !== null) {
      this.#warn('the table was altered under its snapshot, which starts again');
      await this.#save({ layout: null });
    }
    this.#layout = null;
    // Keys of a partial one are what was asked for, and refresh rows in place.
    if (this.record.kind === 'incremental') this.#rereads.clear();
    this.#copied = false;
    this.#cursor = null;
    this.#rows = 0;
    this.#bytes = 0;
  }

  /** From here on every change is noted; `tell`: the sinks begin it, too. */
  async #note({ relation }: TableShape, tell: boolean, signal: AbortSignal): Promise<void> {
    await this.#insert((transaction) => {
      this.#context.weave.watch(this.#watch);
      this.#watch.startNoting();
      if (!tell) return [];
      const named = this.#context.named(relation);
      return [new ChangeEvent('t', transaction, 1, 1, transaction.commitLsn, named, null, null)];
    }, signal);
  }

  /** What was streamed before noting began must be visible to the chunks. */
  async #quiet(signal: AbortSignal): Promise<void> {
    const { log } = this.#context;
    await waitAside(this.#context, this.record, signal, (told) =>
      inSession(this.#context, this.record, signal, (client, table) => writersGone(client, table, log, signal, told)),
    );
  }

  /** The table is another than it was. */
  async #reshape(signal: AbortSignal): Promise<void> {
    const shape = await this.#describe(signal);
    if (this.#layout === null || needsNewStart(this.#layout, layoutOf(shape))) await this.#start(shape, signal);
  }

  #warn(message: string): void {
    this.#context.log.warn({ table: `${this.record.schema}.${this.record.table}` }, message);
  }

  #range(after: KeyText | null): Selection {
    return { after, limit: this.#size.rows };
  }

  #read(selection: Selection, signal: AbortSignal): Promise<Chunk | null> {
    const where = 'keys' in selection ? null : this.record.where;
    return retrying('snapshot', this.#context.log, signal, () =>
      this.#reader.read(this.#shape!, selection, where, signal),
    );
  }

  #prefetch(chunk: Chunk, signal: AbortSignal): Promise<Chunk | null> {
    this.#size.learn(chunk.count, chunk.length, this.#estimatedRows - this.#rows - chunk.count);
    const next = this.#read(this.#range(chunk.last), signal);
    // Looked at only when its turn comes.
    next.catch(() => {});
    return next;
  }

  /** At a watermark of its own. Resolves once what came of it is durable. */
  async #weave(chunk: Chunk, rereads: readonly Reread[] | null, signal: AbortSignal): Promise<Outcome> {
    const reread = rereads !== null;
    // Those of a partial snapshot were asked for by whoever wants the sinks to have what the source has.
    const absent = this.record.kind === 'partial' && rereads ? absentKeys(chunk, rereads, this.#shape!.key) : [];
    let outcome: Outcome = { void: true, ended: false };
    const build = (transaction: Transaction): ChangeEvent[] => {
      const events = this.#events(chunk, transaction, absent);
      if (!events) return [];
      // Sinks apply a large one beside the stream, which the end of a snapshot does not let them.
      const ended = !reread && chunk.whole && this.#rereads.size === 0 && chunk.count < LARGE_CHUNK_ROWS;
      outcome = { void: false, ended };
      if (rereads) this.#rereads.sent(rereads);
      // A topic may have several partitions, and none knows the row that moved away from another.
      else if (chunk.whole && this.#context.config.transport.type === 'in-process') this.#rereads.allSent();
      const seq = (events.at(-1)?.seq ?? 0) + 1;
      if (ended && this.record.kind === 'incremental')
        events.push(endEvent(transaction, seq, seq, this.#relation(), 'completed'));
      return events;
    };
    await this.#insert(build, signal, chunk.length);
    failpoint('after-chunk-before-save');
    return outcome;
  }

  /** Null where the chunk is void. */
  #events(
    { relation, snapshot, blocks }: Chunk,
    transaction: Transaction,
    absent: readonly Row[],
  ): ChangeEvent[] | null {
    const verdict = this.#watch.verdict(snapshot, relation);
    if (verdict.void || this.#layout === null) return null;
    this.#watch.forget(snapshot);
    const streamed = this.#context.named(this.#watch.streamed(relation));
    return chunkEvents({ blocks, absent, verdict, relation: streamed }, transaction);
  }

  /** Nothing is left but to say so; false where another row moved meanwhile. */
  async #end(signal: AbortSignal): Promise<boolean> {
    let ended = false;
    await this.#insert((transaction) => {
      ended = this.#rereads.size === 0 && this.#layout !== null;
      return ended && this.record.kind === 'incremental'
        ? [endEvent(transaction, 1, 1, this.#relation(), 'completed')]
        : [];
    }, signal);
    return ended;
  }

  async #saveChunk(
    chunk: Chunk,
    rereads: readonly Reread[] | null,
    signal: AbortSignal,
  ): Promise<SnapshotState | null> {
    if (rereads) this.#rereads.done(rereads);
    this.#rows += chunk.count;
    this.#bytes += chunk.length;
    if (!rereads) this.#cursor = chunk.last ?? this.#cursor;
    const state = await this.#save({
      cursor: this.#cursor,
      rows: this.#rows,
      bytes: this.#bytes,
      rereads: this.#rereads.keys(),
    });
    failpoint('after-chunk-saved');
    signal.throwIfAborted();
    this.#context.onProgress(this.progress('running'));
    return state;
  }

  #save(progress: SavedProgress): Promise<SnapshotState | null> {
    return this.#context.control((client) => saveSnapshot(client, this.record.id, progress));
  }

  /**
   * A row moved, without all of its values, from where it may not have been copied: it is read again under its new key.
   * Once all have come, the sinks have its values under the old one; else rows that keep moving would never let it end.
   */
  #moved(from: KeyText, to: KeyText): void {
    if (this.record.kind === 'partial' || this.#layout === null || !this.#rereads.mayLack(from)) return;
    this.#rereads.add(to);
    if (this.#rereads.size > this.#context.config.snapshot.notedKeysMax) this.#tooManyMoved();
    // Until that is saved the slot holds the change that told of it. One at a time: a save has all that came before it.
    this.#movesSaved ??= this.#context.control((client) => {
      this.#movesSaved = null;
      const layout = this.#layout === null ? null : undefined;
      return saveSnapshot(client, this.record.id, { rereads: this.#rereads.keys(), layout });
    });
    this.#context.weave.hold(this.#movesSaved);
  }

  /** What has been read is void, also where nobody goes on for now. */
  #tooManyMoved(): void {
    this.#warn('more of its rows moved than are remembered (snapshot.notedKeysMax): its snapshot starts again');
    this.#layout = null;
    this.#rereads.clear();
  }

  #relation(): Relation {
    const { schema, table, tableOid: oid } = this.record;
    const relation = this.#shape?.relation ?? { oid, schema, table, replicaIdentity: 'd', columns: [], key: [] };
    return this.#context.named(this.#watch.streamed(relation));
  }

  /** Puts events into the stream at a new watermark. Resolves once they are durable downstream. */
  async #insert(build: (transaction: Transaction) => ChangeEvent[], signal: AbortSignal, bytes = 0): Promise<void> {
    const { id, kind, sinks } = this.record;
    const { weave, log } = this.#context;
    const nonce = `${id}/${++this.#marks}/${randomBytes(8).toString('hex')}`;
    let settle: { resolve: () => void; reject: (reason: unknown) => void } | null = null;
    const durable = new Promise<void>((resolve, reject) => {
      settle = { resolve, reject };
    });
    durable.catch(() => {});
    const events = (watermark: Transaction): { events: ChangeEvent[]; bytes: number } => {
      const { commitLsn, commitTimeUs } = watermark;
      try {
        return {
          events: build({ xid: 0, commitLsn, commitTimeUs, snapshot: { id, kind, sinks }, origin: null }),
          bytes,
        };
      } catch (error) {
        // A fault of ours must not end the stream.
        settle!.reject(
          new WaltideError('INTERNAL', `weaving a chunk: ${messageOf(error)}`, 'Please report this.', { cause: error }),
        );
        return { events: [], bytes: 0 };
      }
    };
    weave.expect(nonce, { events, durable: () => settle!.resolve() });
    const abort = (): void => settle!.reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    try {
      await retrying('snapshot', log, signal, () => this.#watermarks.write(nonce));
      await durable;
    } finally {
      weave.forget(nonce);
      signal.removeEventListener('abort', abort);
    }
  }
}
