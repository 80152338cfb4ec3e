import type pg from 'pg';
import type { Strategy } from '../config/strategy.ts';
import { formatLsn, type Lsn, parseLsn } from '../event/lsn.ts';
import { isMissing, queryError } from '../postgres/connection.ts';
import type { ConsistencyLevel, JsonRow, OperationType } from './operation.ts';
import type { Target } from './target.ts';

/** NOTIFY on this channel spares the worker the wait for its next look. */
export const OPERATIONS_CHANNEL = 'waltide_operations';

/** A row of `waltide.operations`. */
export interface OperationRecord {
  readonly id: string;
  readonly number: string;
  readonly schema: string;
  readonly table: string;
  readonly type: OperationType;
  readonly consistency: ConsistencyLevel;
  readonly strategy: Strategy | null;
  readonly sinks: readonly string[] | null;
  readonly primaryKey: JsonRow | null;
  readonly data: JsonRow | null;
  readonly state: 'queued' | 'committed' | 'failed';
  readonly attempts: number;
  readonly errorCode: string | null;
  readonly error: string | null;
  readonly lsn: Lsn | null;
  readonly createdAt: Date;
  readonly finishedAt: Date | null;
}

const COLUMNS = `id, number::text, schema_name AS schema, table_name AS "table", operation_type AS type, consistency_level AS consistency,
  strategy, sinks, primary_key AS "primaryKey", data, state, attempts, error_code AS "errorCode", error, commit_lsn::text AS lsn,
  created_at AS "createdAt", finished_at AS "finishedAt"`;

const FLUSHED = 'pg_catalog.pg_current_wal_flush_lsn()::text';

/** What is known of an operation before it is made. */
export interface NewOperation {
  readonly id: string;
  readonly slot: string;
  readonly target: Target;
  readonly type: OperationType;
  readonly consistency: ConsistencyLevel;
  readonly strategy: Strategy | null;
  readonly sinks: readonly string[] | null;
  readonly primaryKey: JsonRow | null;
}

const INSERT = `
INSERT INTO waltide.operations (id, slot_name, table_oid, schema_name, table_name, operation_type, consistency_level, strategy, sinks,
  primary_key, data, state, attempts, finished_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, CASE WHEN $12 = 'committed' THEN now() END`;

/** In the transaction of the write itself. False where there is one of this id already. */
export async function insertCommitted(client: pg.Client, operation: NewOperation): Promise<boolean> {
  const { rowCount } = await client.query(`${INSERT} ON CONFLICT (id) DO NOTHING`, [
    ...common(operation),
    null,
    'committed',
    1,
  ]);
  return rowCount === 1;
}

/** False where there is one of this id already, null where `queueMax` wait. */
export async function insertQueued(
  client: pg.Client,
  operation: NewOperation,
  data: JsonRow | null,
  queueMax: number,
): Promise<boolean | null> {
  const { rows } = await client.query<{ known: boolean; free: boolean; done: boolean }>(
    `WITH queued AS (SELECT count(*) < $14::int8 AS free FROM (
       SELECT FROM waltide.operations WHERE slot_name = $2 AND state = 'queued' LIMIT $14::int8) q),
     done AS (${INSERT} FROM queued WHERE queued.free ON CONFLICT (id) DO NOTHING RETURNING 1)
     SELECT queued.free, EXISTS (SELECT FROM done) AS done, EXISTS (SELECT FROM waltide.operations WHERE id = $1) AS known FROM queued`,
    [...common(operation), data === null ? null : JSON.stringify(data), 'queued', 0, queueMax],
  );
  const { known, free, done } = rows[0]!;
  return done ? true : known || free ? false : null;
}

function common(operation: NewOperation): unknown[] {
  const { id, slot, target, type, consistency, strategy, sinks, primaryKey } = operation;
  const key = primaryKey === null ? null : JSON.stringify(primaryKey);
  return [id, slot, target.oid, target.schema, target.table, type, consistency, strategy, sinks, key];
}

/**
 * Null where there is none of this slot. `flushedLsn`: every commit that anybody was told of, its own among them, lies
 * before it.
 */
export async function readOperation(
  client: pg.Client,
  slot: string,
  id: string,
): Promise<{ readonly record: OperationRecord; readonly flushedLsn: Lsn } | null> {
  try {
    const { rows } = await client.query<Record<string, unknown> & { flushed: string }>(
      `SELECT ${COLUMNS}, ${FLUSHED} AS flushed FROM waltide.operations WHERE id = $1 AND slot_name = $2`,
      [id, slot],
    );
    if (!rows[0]) return null;
    const { flushed, ...row } = rows[0];
    return { record: recordOf(row), flushedLsn: parseLsn(flushed) };
  } catch (error) {
    if (isMissing(error)) return null;
    throw queryError(error, 'reading waltide.operations');
  }
}

/** The first of the queue, locked until the transaction ends. */
export async function lockQueued(client: pg.Client, slot: string, most: number): Promise<OperationRecord[]> {
  const { rows } = await client.query(
    `SELECT ${COLUMNS} FROM waltide.operations WHERE slot_name = $1 AND state = 'queued' ORDER BY operations.number LIMIT $2 FOR UPDATE`,
    [slot, most],
  );
  return rows.map(recordOf);
}

/** In the transaction of the write. What was to be written is not kept. */
export async function markCommitted(client: pg.Client, id: string, key: JsonRow | null): Promise<void> {
  await client.query(
    `UPDATE waltide.operations SET state = 'committed', attempts = attempts + 1, data = NULL, primary_key = COALESCE($2, primary_key),
       error_code = NULL, error = NULL, finished_at = clock_timestamp() WHERE id = $1`,
    [id, key === null ? null : JSON.stringify(key)],
  );
}

/** It is not made; `final`: nor will it be. */
export async function markAttempt(
  client: pg.Client,
  id: string,
  failure: { readonly code: string; readonly message: string; readonly final: boolean },
): Promise<void> {
  await client.query(
    `UPDATE waltide.operations SET attempts = attempts + 1, error_code = $2, error = $3,
       state = CASE WHEN $4 THEN 'failed' ELSE state END, finished_at = CASE WHEN $4 THEN clock_timestamp() END WHERE id = $1`,
    [id, failure.code, failure.message, failure.final],
  );
}

/** Of new rows, whose key the database has chosen. */
export async function saveKey(client: pg.Client, id: string, key: JsonRow): Promise<void> {
  await client.query('UPDATE waltide.operations SET primary_key = $2 WHERE id = $1', [id, JSON.stringify(key)]);
}

/**
 * After a commit of this session: everything of it was committed before this LSN. Noted for operations of which that is not
 * known yet; where a process died before, `lsn` is that of the first who asks.
 */
export async function noteCommitted(client: pg.Client, ids: readonly string[], lsn: Lsn): Promise<void> {
  await client.query('UPDATE waltide.operations SET commit_lsn = $2 WHERE id = ANY ($1) AND commit_lsn IS NULL', [
    ids,
    formatLsn(lsn),
  ]);
}

/** As in readOperation. */
export async function flushedLsn(client: pg.Client): Promise<Lsn> {
  const { rows } = await client.query<{ lsn: string }>(`SELECT ${FLUSHED} AS lsn`);
  return parseLsn(rows[0]!.lsn);
}

export interface QueuedOperations {
  readonly queued: number;
  readonly oldestAt: Date | null;
}

export async function queuedOperations(client: pg.Client, slot: string): Promise<QueuedOperations> {
  const { rows } = await client.query<QueuedOperations>(
    `SELECT count(*)::float8 AS queued, min(created_at) AS "oldestAt" FROM waltide.operations WHERE slot_name = $1 AND state = 'queued'`,
    [slot],
  );
  return rows[0]!;
}

/** Forgets those that ended longer ago than `hours`, at most `most` at once. Resolves with how many. */
export async function forgetOperations(client: pg.Client, slot: string, hours: number, most: number): Promise<number> {
  const { rowCount } = await client.query(
    `DELETE FROM waltide.operations WHERE id IN (
       SELECT id FROM waltide.operations WHERE slot_name = $1 AND state <> 'queued' AND finished_at < now() - make_interval(hours => $2)
       ORDER BY finished_at LIMIT $3)`,
    [slot, hours, most],
  );
  return rowCount ?? 0;
}

function recordOf(row: Record<string, unknown>): OperationRecord {
  const { lsn, ...rest } = row as unknown as Omit<OperationRecord, 'lsn'> & { lsn: string | null };
  return { ...rest, lsn: lsn === null ? null : parseLsn(lsn) };
}
