import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { ByteWriter } from '../event/byte-writer.ts';
import { type CopiedRows, copiedRows } from '../event/copied-rows.ts';
import { copyRowToTuple } from '../event/copy-text.ts';
import type { Relation } from '../event/relation.ts';
import { Row } from '../event/row.ts';
import {
  COPY_DATA,
  COPY_OUT_RESPONSE,
  CopySession,
  ERROR_RESPONSE,
  READY_FOR_QUERY,
  ServerError,
  serverError,
} from '../postgres/copy-session.ts';
import type { KeyText } from '../postgres/snapshots.ts';
import type { ChunkBounds } from './chunk-size.ts';
import { RateLimit } from './rate-limit.ts';
import { type PgSnapshot, parseSnapshot } from './reconcile.ts';
import { digestSql, fromOf, type Selection, selectSql, type TableShape } from './table-shape.ts';
import { keyText } from './table-watch.ts';

/** Rows of one table as of one MVCC snapshot. */
export interface Chunk {
  readonly snapshot: PgSnapshot;
  readonly relation: Relation;
  readonly blocks: readonly CopiedRows[];
  /** How many rows that is. */
  readonly count: number;
  /** Bytes that came over the wire. */
  readonly length: number;
  /** Key of the last row; null where there is none. */
  readonly last: KeyText | null;
  /** True where no row of the selection was left out, be it for the number of rows or for their bytes. */
  readonly whole: boolean;
}

/** Reads chunks over one connection, which it opens when needed and again after an error. */
export class ChunkReader {
  readonly #connect: () => Promise<pg.Client>;
  readonly #bytesMax: number;
  readonly #rate: RateLimit;
  #session: CopySession | null = null;

  constructor(connect: () => Promise<pg.Client>, { bytesMax, rowsPerSecondMax }: ChunkBounds) {
    this.#connect = connect;
    this.#bytesMax = bytesMax * 2;
    this.#rate = new RateLimit(rowsPerSecondMax);
  }

  /**
   * Resolves with null where the table's shape is not that of `shape` any more. `where` has been checked before. Reading stops after
   * twice the bytes that a chunk aims at, so that wide rows cannot fill the memory: what came is a chunk as good as any.
   */
  async read(
    shape: TableShape,
    selection: Selection,
    where: string | null,
    signal: AbortSignal,
  ): Promise<Chunk | null> {
    // Before the statement, whose transaction holds locks.
    await this.#rate.room(signal);
    this.#session ??= CopySession.take(await this.#connect());
    const session = this.#session;
    // The lock comes first: a table that is being rewritten looks empty to a snapshot taken before it was.
    session.query(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE ${fromOf(shape)} IN ACCESS SHARE MODE;
      SET LOCAL row_security = off; SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off;
      COPY (SELECT pg_catalog.pg_current_snapshot()::text, (${digestSql(shape.table.oid)})) TO STDOUT;
      COPY (${selectSql(shape, selection, where)}) TO STDOUT; COMMIT`);
    try {
      const answer = await this.#receive(session, shape);
      if (answer.cut) this.close();
      if (answer.digest !== shape.digest) return null;
      const { blocks, length, snapshot, cut } = answer;
      const count = blocks.reduce((sum, block) => sum + block.count, 0);
      this.#rate.count(count);
      const block = blocks.at(-1);
      const last = block?.rows(block.count - 1)[0] ?? null;
      const full = 'limit' in selection && count >= selection.limit;
      const columns = shape.key.map(({ index }) => index);
      return {
        snapshot: parseSnapshot(snapshot),
        relation: shape.relation,
        blocks,
        count,
        length,
        last: last && keyText(last, columns),
        whole: !full && !cut,
      };
    } catch (error) {
      this.close();
      // 42703 no such column, 42P01 no such table: whoever looks again will see why.
      if (error instanceof ServerError && (error.code === '42703' || error.code === '42P01')) return null;
      if (error instanceof RangeError) return null;
      throw chunkError(error, shape);
    }
  }

  async #receive(session: CopySession, shape: TableShape) {
    const head = new ByteWriter(512);
    const blocks: CopiedRows[] = [];
    let headAt = 0;
    let length = 0;
    let copies = 0;
    let failure: Error | null = null;
    let cut = false;
    for (let ready = false; !ready && !cut; ) {
      const frames = await session.read();
      if (!frames)
        throw new WaltideError('SOURCE_CONNECTION_LOST', 'the server ended the session', 'It is tried again.');
      const starts: number[] = [];
      const ends: number[] = [];
      for (let at = 0; at < frames.length; ) {
        const end = at + 1 + frames.readUInt32BE(at + 1);
        const type = frames[at];
        if (type === COPY_DATA) {
          if (copies === 1) headAt = copyRowToTuple(frames, at + 5, end, 2, head);
          else {
            starts.push(at + 5);
            ends.push(end);
            length += end - at - 5;
          }
        } else if (type === COPY_OUT_RESPONSE) copies++;
        else if (type === ERROR_RESPONSE) failure = serverError(frames, at + 5);
        else if (type === READY_FOR_QUERY) ready = true;
        at = end;
      }
      if (failure && ready) throw failure;
      if (starts.length > 0) blocks.push(copiedRows(shape.relation, frames, starts, ends));
      // One row at least: a single one may be larger than the bound.
      cut = !ready && length > this.#bytesMax && blocks.length > 0;
    }
    const row = new Row(shape.relation, head.bytes, headAt);
    return { snapshot: row.text(0) ?? '', digest: row.text(1), blocks, length, cut };
  }

  close(): void {
    this.#session?.destroy();
    this.#session = null;
  }
}

function chunkError(error: unknown, { table }: TableShape): unknown {
  if (!(error instanceof ServerError)) return error;
  const message = `reading ${table.schema}.${table.table}: ${error.message}`;
  const options = { cause: error };
  if (error.code === '42501')
    return new WaltideError(
      'SOURCE_RIGHTS',
      message,
      'Grant the missing right, then start the snapshot again.',
      options,
    );
  if (
    error.code.startsWith('57') ||
    error.code.startsWith('53') ||
    error.code.startsWith('40') ||
    error.code.startsWith('08')
  )
    return new WaltideError('SOURCE_CONNECTION_LOST', message, 'It is tried again.', options);
  return new WaltideError(
    'SOURCE_QUERY',
    message,
    'Correct the table or the condition, then start the snapshot again.',
    options,
  );
}
