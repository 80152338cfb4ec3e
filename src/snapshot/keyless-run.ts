import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { ChangeEvent, type Transaction } from '../event/change-event.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import { createSlot } from '../postgres/slot-creation.ts';
import { type SnapshotRecord, saveSnapshot } from '../postgres/snapshots.ts';
import { writersGone } from '../postgres/writers.ts';
import { endEvent, type SnapshotContext, WatermarkWriter } from './context.ts';
import { copyRows, isReadable } from './copy-rows.ts';
import { waitAside } from './quiet.ts';
import { retrying } from './retry.ts';
import { progressOf, type SnapshotProgress } from './snapshot.ts';
import { describeTable, type TableShape } from './table-shape.ts';
import type { Woven } from './weave.ts';

/** The stream stands still for this long at most while PostgreSQL finds a consistent point; then it is tried again later. */
const CONSISTENT_WAIT_MS = 20_000;
const TRY_AGAIN_MS = 30_000;
/** The table was truncated or rewritten right after that point. */
const REWRITTEN_AGAIN_MS = 500;

/** blocked: no consistent point was found in time. rewritten: to the snapshot of that point the table looks empty. */
type End = 'done' | 'blocked' | 'rewritten';

/**
 * One snapshot of a table without a key, whose rows nothing can tell apart: all of them at once, exactly as of one LSN.
 * The stream goes up to that LSN, waits until the rows have passed, and goes on.
 */
export class KeylessRun {
  readonly record: SnapshotRecord;
  readonly #context: SnapshotContext;
  #rows = 0;
  #bytes = 0;
  #estimatedRows: number;

  constructor(record: SnapshotRecord, context: SnapshotContext) {
    this.record = record;
    this.#context = context;
    this.#estimatedRows = record.estimatedRows;
  }

  progress(state: SnapshotProgress['state']): SnapshotProgress {
    const estimatedRows = this.#estimatedRows;
    return progressOf(this.record, state, { rows: this.#rows, bytes: this.#bytes, estimatedRows });
  }

  /** Resolves once all of it is durable downstream. */
  async run(signal: AbortSignal): Promise<void> {
    const { record } = this;
    if (record.kind === 'partial')
      throw new WaltideError(
        'USAGE',
        `table ${record.schema}.${record.table} has no key, so a part of its rows cannot be refreshed`,
        'Start the snapshot without --where.',
      );
    for (;;) {
      const end = await retrying('snapshot', this.#context.log, signal, () => this.#attempt(signal));
      if (end === 'done') return;
      await sleep(end === 'blocked' ? TRY_AGAIN_MS : REWRITTEN_AGAIN_MS, undefined, { signal });
    }
  }

  async #attempt(signal: AbortSignal): Promise<End> {
    const { record } = this;
    const { log } = this.#context;
    const sessions: pg.Client[] = [];
    const open = async (replication = false): Promise<pg.Client> => {
      const client = await this.#context.connect(`snapshot ${record.id}`, replication);
      sessions.push(client);
      return client;
    };
    const watermarks = new WatermarkWriter(() => this.#context.connect(`watermark ${record.id}`));
    try {
      const client = await open();
      const { tableOid: oid, schema, table } = record;
      const shape = await describeTable(client, this.#context.publications, { oid, schema, table });
      this.#estimatedRows = shape.table.estimatedRows;
      await waitAside(this.#context, record, signal, (onWaiting) =>
        writersGone(client, { oid, schema, table }, log, signal, onWaiting),
      );
      const end = await this.#interlude(shape, client, await open(true), watermarks, signal);
      if (end === 'done')
        await this.#context.control((control) =>
          saveSnapshot(control, record.id, { begun: true, rows: this.#rows, bytes: this.#bytes }),
        );
      return end;
    } finally {
      await watermarks.close();
      for (const session of sessions) await session.end().catch(() => {});
    }
  }

  #interlude(
    shape: TableShape,
    client: pg.Client,
    replication: pg.Client,
    watermarks: WatermarkWriter,
    signal: AbortSignal,
  ): Promise<End> {
    const { weave, log } = this.#context;
    const poke = (): Promise<void> => watermarks.write(`poke/${randomBytes(4).toString('hex')}`);
    return new Promise<End>((resolve, reject) => {
      let snapshotName = '';
      let at: Lsn = 0n;
      const abort = (): void => reject(signal.reason);
      signal.addEventListener('abort', abort, { once: true });
      weave.interlude({
        prepare: async () => {
          try {
            signal.throwIfAborted();
            const name = `waltide_copy_${randomBytes(6).toString('hex')}`;
            const creation = { name, waitMs: CONSISTENT_WAIT_MS, snapshot: 'export', temporary: true, signal } as const;
            const slot = await createSlot(replication, client, creation, log);
            at = slot.consistentPoint;
            snapshotName = slot.snapshotName!;
            await poke();
            return at;
          } catch (error) {
            if (error instanceof WaltideError && error.code === 'SLOT_BLOCKED') {
              log.warn({ table: shape.table.table }, `${error.message}; tried again later`);
              resolve('blocked');
            } else reject(error);
            return null;
          }
        },
        batches: () => this.#batches(shape, client, snapshotName, at, signal, resolve, reject),
      });
      // An idle stream must come to its next batch before it can be interrupted.
      poke().catch(reject);
    });
  }

  /** Errors are for the run, not for the stream, which goes on: what came of the copy is void. */
  async *#batches(
    shape: TableShape,
    client: pg.Client,
    snapshotName: string,
    consistentPoint: Lsn,
    signal: AbortSignal,
    done: (end: End) => void,
    failed: (error: unknown) => void,
  ): AsyncGenerator<Woven> {
    const { id, sinks } = this.record;
    const relation = this.#context.named(shape.relation);
    const commitLsn = consistentPoint - 1n;
    const transaction: Transaction = {
      xid: 0,
      commitLsn,
      commitTimeUs: BigInt(Date.now()) * 1000n,
      snapshot: { id, kind: 'incremental', sinks },
      origin: null,
    };
    let seq = 0;
    const woven = (events: ChangeEvent[], bytes: number, end = false): Woven => ({
      batch: { events, bytes, commitEndLsn: end ? consistentPoint : null },
      hold: null,
      // Where the copy has failed, that is known already.
      durable: end ? () => done(ended === 'completed' ? 'done' : 'rewritten') : null,
    });
    let ended: 'completed' | 'cancelled' = 'completed';
    this.#rows = 0;
    this.#bytes = 0;
    this.#context.log.info(
      { table: relation.table, at: formatLsn(consistentPoint) },
      'the stream waits while a table without a key is copied',
    );
    yield woven([new ChangeEvent('t', transaction, ++seq, seq, commitLsn, relation, null, null)], 0);
    try {
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
      await client.query(`SET TRANSACTION SNAPSHOT ${client.escapeLiteral(snapshotName)}`);
      await client.query('SET LOCAL row_security = off');
      const readable = await isReadable(client, shape.table);
      if (!readable) ended = 'cancelled';
      for await (const copied of readable ? copyRows(client, shape, null, signal) : []) {
        const bytes = copied.bytes.length;
        const events = copied
          .rows()
          .map((row) => new ChangeEvent('r', transaction, ++seq, seq, commitLsn, relation, null, row));
        this.#rows += events.length;
        this.#bytes += bytes;
        this.#context.onProgress(this.progress('running'));
        yield woven(events, bytes);
      }
      signal.throwIfAborted();
    } catch (error) {
      ended = 'cancelled';
      failed(error);
    }
    yield woven([endEvent(transaction, ++seq, seq, relation, ended)], 0, true);
  }
}
