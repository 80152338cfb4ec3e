import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { messageOf, WaltideError } from '../errors.ts';
import type { Batch } from '../event/batch.ts';
import { ChangeEvent, type Transaction } from '../event/change-event.ts';
import { type CopiedRows, CopyEvent } from '../event/copied-rows.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Relation } from '../event/relation.ts';
import { failpoint } from '../failpoint.ts';
import type { Log } from '../log.ts';
import { describeRelation, TypeCatalog } from '../postgres/catalog.ts';
import { queryError } from '../postgres/connection.ts';
import type { PublishedTable } from '../postgres/publication.ts';
import { endEvent } from './context.ts';
import { type CopySource, copyRows, isReadable } from './copy-rows.ts';
import { type Gather, Gathering } from './gathering.ts';
import { progressOf, type SnapshotProgress } from './snapshot.ts';

const { escapeIdentifier } = pg;

/** 64 MB of heap: many for a large table, so that all workers end together, and few connections. */
const UNIT_BLOCKS = 8192;

export interface InitialSnapshotOptions {
  readonly tables: readonly PublishedTable[];
  readonly consistentPoint: Lsn;
  readonly snapshotName: string;
  readonly workers: number;
  /** Null: rows are published as they come. */
  readonly gather: Gather | null;
  readonly log: Log;
  connect(): Promise<pg.Client>;
  /** Resolves when there is room for more; `durable` is called once the batch is. */
  publish(batch: Batch, durable: (() => void) | null): Promise<void>;
  /** Every row of the table is durable downstream. */
  onCompleted(table: PublishedTable): void;
  readonly onProgress: (progress: SnapshotProgress) => void;
}

/** One table on its way. */
interface Copy {
  readonly table: PublishedTable;
  readonly relation: Relation;
  units: number;
  rows: number;
  bytes: number;
  /** Read and not published yet. */
  readonly gathering: Gathering | null;
  /** Events of the table so far. */
  count: number;
  /** Altered meanwhile, so that the snapshot does not show it: its rows are void, and it is filled later. */
  failed: boolean;
}

interface Unit {
  readonly copy: Copy;
  readonly source: CopySource;
}

/**
 * The rows as they were at the slot's consistent point, as op r: several tables, and several ranges of a large one, at once.
 * Each table is begun and ended for itself. A table that was dropped or rewritten meanwhile is cancelled, no more.
 */
export class InitialSnapshot {
  readonly #options: InitialSnapshotOptions;
  readonly #transaction: Transaction;
  #seq = 0;
  #units: Unit[] = [];
  readonly #tables: PublishedTable[];

  constructor(options: InitialSnapshotOptions) {
    this.#options = options;
    this.#tables = [...options.tables];
    this.#transaction = {
      xid: 0,
      // WAL records begin at multiples of 8, so no commit can have this LSN: the copy comes before all that is streamed.
      commitLsn: options.consistentPoint - 1n,
      commitTimeUs: BigInt(Date.now()) * 1000n,
      snapshot: { id: randomBytes(6).toString('hex'), kind: 'initial', sinks: null },
      origin: null,
    };
  }

  /** Resolves when all is published, or `signal` aborts. Rejects with what stops the others too. */
  async run(signal: AbortSignal): Promise<void> {
    const failed = new AbortController();
    const either = AbortSignal.any([signal, failed.signal]);
    const workers = Array.from({ length: this.#options.workers }, () => this.#work(either));
    for (const worker of workers) worker.catch(() => failed.abort());
    const [first] = (await Promise.allSettled(workers)).filter((result) => result.status === 'rejected');
    if (first) throw first.reason;
  }

  /** Units of tables that are begun come before new tables, so that tables end early. */
  async #work(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const unit = this.#units.shift();
      const table = unit ? null : this.#tables.shift();
      if (!unit && !table) return;
      const client = await this.#session();
      try {
        if (unit) await this.#copy(unit, client, signal);
        else await this.#begin(table!, client, signal);
      } finally {
        await client.end().catch(() => {});
      }
    }
  }

  async #session(): Promise<pg.Client> {
    const client = await this.#options.connect();
    try {
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
      await client.query(`SET TRANSACTION SNAPSHOT ${client.escapeLiteral(this.#options.snapshotName)}`);
      // An error rather than fewer rows, should a policy apply after all.
      await client.query('SET LOCAL row_security = off');
      return client;
    } catch (error) {
      await client.end().catch(() => {});
      throw queryError(error, 'using the exported snapshot');
    }
  }

  async #begin(table: PublishedTable, client: pg.Client, signal: AbortSignal): Promise<void> {
    const relation = await describeRelation(client, new TypeCatalog(client), table, table.columns);
    const { gather } = this.#options;
    const gathering = gather && new Gathering(gather);
    const copy: Copy = { table, relation, units: 0, rows: 0, bytes: 0, gathering, count: 0, failed: false };
    await this.#publishOne(copy, (...at) => new ChangeEvent('t', ...at, relation, null, null));
    let sources: CopySource[] = [];
    try {
      sources = await cut(client, table);
    } catch (error) {
      await this.#setAside(copy, messageOf(error));
    }
    copy.units = Math.max(1, sources.length);
    if (sources.length === 0) return this.#done(copy);
    const [mine, ...others] = sources.map((source) => ({ copy, source }));
    this.#units.push(...others);
    await this.#copy(mine!, client, signal);
  }

  async #copy({ copy, source }: Unit, client: pg.Client, signal: AbortSignal): Promise<void> {
    const { table } = copy;
    try {
      if (!copy.failed && (await isReadable(client, table)))
        for await (const rows of copyRows(client, copy, source, signal, copy.gathering !== null)) {
          copy.rows += rows.count;
          copy.bytes += rows.bytes.length;
          failpoint('during-copy');
          for (const group of copy.gathering?.add(rows) ?? [[rows]]) await this.#publishRows(copy, group);
          this.#progress(copy, 'running');
          if (copy.failed) break;
        }
      else await this.#setAside(copy, 'it was dropped or rewritten after the snapshot was taken');
    } catch (error) {
      const { code = 'INTERNAL', retry = false } = error instanceof WaltideError ? error : {};
      // A lost connection takes the exported snapshot with it; missing rights must be seen.
      if (retry || (code !== 'SOURCE_QUERY' && code !== 'PROTOCOL')) throw error;
      await this.#setAside(copy, messageOf(error));
    }
    if (!signal.aborted) await this.#done(copy);
  }

  async #setAside(copy: Copy, reason: string): Promise<void> {
    if (copy.failed) return;
    copy.failed = true;
    const { schema, table } = copy.table;
    this.#options.log.warn(
      { table: `${schema}.${table}` },
      `the first copy leaves the table to a snapshot of its own: ${reason}`,
    );
  }

  async #done(copy: Copy): Promise<void> {
    if (--copy.units > 0) return;
    const rest = copy.gathering?.rest() ?? [];
    if (rest.length > 0 && !copy.failed) await this.#publishRows(copy, rest);
    const phase = copy.failed ? 'cancelled' : 'completed';
    const durable = copy.failed ? null : () => this.#options.onCompleted(copy.table);
    await this.#publishOne(
      copy,
      (transaction, seq, tableSeq) => endEvent(transaction, seq, tableSeq, copy.relation, phase),
      durable,
    );
    this.#progress(copy, phase);
    failpoint('after-table-copied');
  }

  #publishOne(
    copy: Copy,
    make: (transaction: Transaction, seq: number, tableSeq: number, lsn: Lsn) => ChangeEvent,
    durable: (() => void) | null = null,
  ): Promise<void> {
    const event = make(this.#transaction, ++this.#seq, ++copy.count, this.#transaction.commitLsn);
    return this.#options.publish({ events: [event], bytes: 0, commitEndLsn: null }, durable);
  }

  /** Numbers are given when events are published and not before, so that what several workers publish is in order. */
  #publishRows(copy: Copy, group: readonly CopiedRows[]): Promise<void> {
    const transaction = this.#transaction;
    let bytes = 0;
    const events = group.map((rows) => {
      this.#seq += rows.count;
      copy.count += rows.count;
      bytes += rows.size;
      return new CopyEvent(transaction, this.#seq, copy.count, transaction.commitLsn, rows);
    });
    return this.#options.publish({ events, bytes, commitEndLsn: null }, null);
  }

  #progress({ table, rows, bytes }: Copy, state: SnapshotProgress['state']): void {
    const { schema, table: name, estimatedRows } = table;
    this.#options.onProgress(
      progressOf({ schema, table: name, kind: 'initial' }, state, { rows, bytes, estimatedRows }),
    );
  }
}

/** The table, or the leaves of a partitioned one, in ranges of blocks. */
async function cut(client: pg.Client, table: PublishedTable): Promise<CopySource[]> {
  const { rows } = await client.query<{ schema: string; table: string; kind: string; blocks: number }>(
    `SELECT n.nspname AS schema, c.relname AS table, c.relkind::text AS kind,
            (pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int)::float8 AS blocks
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid IN (SELECT $1::oid UNION SELECT relid FROM pg_catalog.pg_partition_tree($1::oid)) AND c.relkind <> 'p' ORDER BY 1, 2`,
    [table.oid],
  );
  return rows.flatMap(({ schema, table: name, kind, blocks }): CopySource[] => {
    const from = `${escapeIdentifier(schema)}.${escapeIdentifier(name)}`;
    if (kind !== 'r' || blocks <= UNIT_BLOCKS * 1.5) return [{ from, range: null }];
    const count = Math.ceil(blocks / UNIT_BLOCKS);
    return Array.from({ length: count }, (_, i) => ({
      from,
      range: { from: i * UNIT_BLOCKS, to: i === count - 1 ? null : (i + 1) * UNIT_BLOCKS },
    }));
  });
}
