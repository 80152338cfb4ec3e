import { existsSync } from 'node:fs';
import { copyFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach } from 'vitest';
import type { DuckdbSinkConfig } from '../../../src/config/schema.ts';
import type { Delivery } from '../../../src/event/batch.ts';
import {
  ChangeEvent,
  type Op,
  type Snapshot,
  type SnapshotEnd,
  snapshotEndMessage,
  type Transaction,
} from '../../../src/event/change-event.ts';
import type { SourceIdentity } from '../../../src/event/offset.ts';
import type { Column, ColumnType, Relation } from '../../../src/event/relation.ts';
import { encodeTuple, Row } from '../../../src/event/row.ts';
import { createDuckdbSink } from '../../../src/sink/duckdb/duckdb-sink.ts';
import type { Sink, SinkState } from '../../../src/sink/sink.ts';
import { columnType } from '../../support/column-type.ts';
import { sinkConfig } from './config.ts';

export const IDENTITY: SourceIdentity = { systemIdentifier: '7311', timeline: 1, slot: 'waltide', database: 'shop' };

export const type = columnType;

export const arrayOf = (of: ColumnType): ColumnType =>
  columnType(`_${of.name}`, { kind: 'array', of, delimiter: of.delimiter });
export const enumOf = (name: string, ...labels: string[]): ColumnType =>
  columnType(name, { schema: 'public', kind: 'enum', labels });
export const numericOf = (precision: number, scale: number): number => ((precision << 16) | (scale & 0x7ff)) + 4;

type ColumnSpec = readonly [name: string, type: ColumnType | string, modifier?: number];

export function relation(table: string, columns: readonly ColumnSpec[], extra: Partial<Relation> = {}): Relation {
  const all: Column[] = columns.map(([name, of, modifier = -1]) => ({
    name,
    type: typeof of === 'string' ? type(of) : of,
    modifier,
  }));
  // Each name another table.
  const oid = 16400 + [...table].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)!) % 65_521, 0);
  return { oid, schema: 'public', table, replicaIdentity: 'd', columns: all, key: [0], ...extra };
}

export type Values = readonly (string | null | undefined)[];

let clock = 100n;

/** One transaction. Each change is `[op, relation, after]`, or `[op, relation, after, before]`. */
export type Change = readonly [op: Op, relation: Relation, after?: Values | null, before?: Values | null];

export function events(changes: readonly Change[], snapshot = false): ChangeEvent[] {
  return inTransaction(changes, snapshot ? { id: `s${clock}`, kind: 'initial', sinks: null } : null);
}

/** Events of a snapshot: op t begins it, op m ends it. */
export function snapshotEvents(
  id: string,
  kind: Snapshot['kind'],
  changes: readonly Change[],
  phase: SnapshotEnd['phase'] = 'completed',
  sinks: readonly string[] | null = null,
): ChangeEvent[] {
  return inTransaction(changes, { id, kind, sinks }, phase);
}

function inTransaction(
  changes: readonly Change[],
  snapshot: Snapshot | null,
  phase: SnapshotEnd['phase'] = 'completed',
): ChangeEvent[] {
  clock += 100n;
  const transaction: Transaction = { xid: 7, commitLsn: clock, commitTimeUs: 0n, snapshot, origin: null };
  return changes.map(([op, of, after, before], i) => {
    const row = (values: Values | null | undefined): Row | null =>
      values ? new Row(of, encodeTuple(values), 0) : null;
    const message = op === 'm' ? snapshotEndMessage({ phase }) : null;
    return new ChangeEvent(op, transaction, i + 1, i + 1, 0n, of, row(before), row(after), message);
  });
}

export function delivery(...transactions: readonly (readonly ChangeEvent[])[]): Delivery {
  const all = transactions.flat();
  return {
    events: all,
    bytes: 0,
    offsets: [{ partition: '', position: { commitLsn: clock + 1n, seq: 0 }, next: null }],
    complete: true,
  };
}

export const changes = (...list: readonly Change[]): Delivery => delivery(events(list));

/** Snapshots of the tables that `list` begins by op t, whole. */
export function copy(...list: readonly Change[]): Delivery {
  const begun = [...new Set(list.flatMap(([op, of]) => (op === 't' ? [of] : [])))];
  return delivery(events([...list, ...begun.map((of): Change => ['m', of])], true));
}

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

export async function directory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'waltide-duckdb-'));
  cleanups.push(() => rm(path, { recursive: true, force: true }));
  return path;
}

export const config = sinkConfig;

export interface TestSink extends Sink {
  readonly path: string;
  /** As it was opened. */
  readonly state: SinkState;
  /** What the file would be after a crash, opened again. */
  crashed(): Promise<TestSink>;
  /** Rows of a query. */
  rows(sql: string): Promise<readonly (readonly unknown[])[]>;
}

export async function openSink(at?: string, more: Partial<DuckdbSinkConfig> = {}): Promise<TestSink> {
  const path = at ?? join(await directory(), 'sink.duckdb');
  const sink = createDuckdbSink(config(path, more), pino({ level: 'silent' }));
  cleanups.push(() => sink.close());
  const state = await sink.open(IDENTITY);
  const rows = async (sql: string) => (await sink.query!(sql, { rowsMax: 10_000, timeoutMs: 10_000 })).rows;
  const crashed = async (): Promise<TestSink> => {
    const copy = join(await directory(), 'sink.duckdb');
    await copyFile(path, copy);
    if (existsSync(`${path}.wal`)) await copyFile(`${path}.wal`, `${copy}.wal`);
    return openSink(copy);
  };
  return Object.assign(sink, { path, state, rows, crashed });
}
