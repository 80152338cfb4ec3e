import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { ChangeEvent, type SnapshotEnd, snapshotEndMessage, type Transaction } from '../event/change-event.ts';
import type { Relation } from '../event/relation.ts';
import type { Log } from '../log.ts';
import { queryError } from '../postgres/connection.ts';
import type { SnapshotRecord } from '../postgres/snapshots.ts';
import { retrying } from './retry.ts';
import { type SnapshotProgress, WATERMARK_PREFIX } from './snapshot.ts';
import type { Weave } from './weave.ts';

/** What every run of a snapshot needs from the one who starts it. */
export interface SnapshotContext {
  readonly config: Config;
  readonly publications: readonly string[];
  readonly weave: Weave;
  readonly log: Log;
  readonly onProgress: (progress: SnapshotProgress) => void;
  /** The relation under the name by which the stream knows it at this moment. */
  named(relation: Relation): Relation;
  /** A session on the primary: a standby's `pg_current_snapshot` does not tell what is in progress. */
  connect(what: string, replication?: boolean): Promise<pg.Client>;
  /** Waits for something of others: meanwhile another table may be read. */
  aside<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T>;
  /** Work on the control tables, one after another, tried again where the connection is lost. */
  control<T>(work: (client: pg.Client) => Promise<T>): Promise<T>;
}

/** Bytes that a chunk aims at. Through Kafka each row is a record of several times its size, and no store takes the rows together. */
export function chunkBytesOf({ snapshot, transport }: Config): number {
  const { chunkBytesMax } = snapshot;
  return transport.type === 'kafka'
    ? Math.min(chunkBytesMax, Math.ceil(transport.inFlightBytesMax / 3))
    : chunkBytesMax;
}

/** Does `work` on a snapshot's table in a session of its own, and again where that is lost. */
export function inSession<T>(
  context: SnapshotContext,
  record: SnapshotRecord,
  signal: AbortSignal,
  work: (client: pg.Client, table: { oid: number; schema: string; table: string }) => Promise<T>,
): Promise<T> {
  return retrying('snapshot', context.log, signal, async () => {
    const client = await context.connect(`snapshot ${record.id}`);
    try {
      return await work(client, { oid: record.tableOid, schema: record.schema, table: record.table });
    } finally {
      await client.end().catch(() => {});
    }
  });
}

/** The event that ends a snapshot of its table. */
export function endEvent(
  transaction: Transaction,
  seq: number,
  tableSeq: number,
  relation: Relation,
  phase: SnapshotEnd['phase'],
): ChangeEvent {
  const message = snapshotEndMessage({ phase });
  return new ChangeEvent('m', transaction, seq, tableSeq, transaction.commitLsn, relation, null, null, message);
}

/** Writes watermarks over a connection of its own. */
export class WatermarkWriter {
  readonly #connect: () => Promise<pg.Client>;
  #client: pg.Client | null = null;

  constructor(connect: () => Promise<pg.Client>) {
    this.#connect = connect;
  }

  /** Resolves once it is in the WAL. After a rejection it may be there all the same. */
  async write(nonce: string): Promise<void> {
    try {
      if (!this.#client) {
        this.#client = await this.#connect();
        // The stream brings it back: no standby need confirm it first. `off` would leave it unflushed for a while.
        await this.#client.query('SET synchronous_commit = local');
      }
      await this.#client.query('SELECT pg_catalog.pg_logical_emit_message(true, $1, $2)', [WATERMARK_PREFIX, nonce]);
    } catch (error) {
      await this.close();
      throw queryError(error, 'writing a watermark');
    }
  }

  async close(): Promise<void> {
    const client = this.#client;
    this.#client = null;
    await client?.end().catch(() => {});
  }
}
