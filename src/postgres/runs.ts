import type pg from 'pg';
import { type ErrorClass, WaltideError } from '../errors.ts';
import { instanceKey, trackingQuery as run } from './tracking-query.ts';

/** NOTIFY here, with a run's id, when it ends or shall end; with an empty text when anything may have changed. */
export const RUN_CHANNEL = 'waltide_runs';

export type RunStatus = 'in_progress' | 'success' | 'error';

/** A row of `waltide.sync_history`. */
export interface RunRecord {
  readonly id: string;
  readonly syncType: string;
  readonly startedAt: Date;
  readonly status: RunStatus;
  readonly records: number;
  /** Of one in progress: up to now. */
  readonly durationSeconds: number;
  readonly error: string | null;
  readonly errorClass: ErrorClass | null;
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly instance: string;
}

/** A row of `waltide.sync_status`. */
export interface SyncStatus {
  readonly syncType: string;
  readonly lastSyncAt: Date | null;
  readonly lastAttemptAt: Date | null;
  readonly status: 'pending' | RunStatus;
  readonly error: string | null;
  readonly successes: number;
  readonly failures: number;
  readonly records: number;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

const RUN_COLUMNS = `h.id::text AS id, h.sync_type AS "syncType", h.sync_timestamp AS "startedAt", h.status,
  h.records_processed::float8 AS records, h.error_message AS error, h.error_class AS "errorClass", h.sync_metadata AS metadata,
  CASE WHEN h.status = 'in_progress' THEN extract(epoch FROM now() - h.sync_timestamp)::float8 ELSE h.duration_seconds END AS "durationSeconds",
  h.service_instance AS instance`;

/** What a run that begins may go on from. */
export interface LastSync {
  readonly at: Date | null;
  /** What the last successful run gave as `latest`. */
  readonly latest: string | null;
}

export interface Begun {
  readonly id: string;
  readonly last: LastSync;
}

/**
 * Claims a sync type and records that its run begins, in one statement. Null where another run of it is claimed.
 * The caller holds the type's advisory lock.
 */
export async function beginRun(
  client: pg.Client,
  { syncType, instance, metadata }: { syncType: string; instance: string; metadata: object },
): Promise<Begun | null> {
  const rows = await run<{ id: string; at: Date | null; latest: string | null }>(
    client,
    `WITH claim AS (
       INSERT INTO waltide.active_runs (sync_type, run_id, instance_id)
       VALUES ($1, pg_catalog.nextval('waltide.sync_history_id_seq'), $2) ON CONFLICT (sync_type) DO NOTHING RETURNING run_id
     ), history AS (
       INSERT INTO waltide.sync_history (id, sync_type, status, service_instance, sync_metadata)
       SELECT run_id, $1, 'in_progress', $2, $3::jsonb FROM claim
     ), status AS (
       INSERT INTO waltide.sync_status (sync_type, last_attempt_timestamp, last_sync_status) SELECT $1, now(), 'in_progress' FROM claim
       ON CONFLICT (sync_type) DO UPDATE SET last_attempt_timestamp = now(), last_sync_status = 'in_progress', updated_at = now()
     )
     SELECT claim.run_id::text AS id, s.last_sync_timestamp AS at, done.sync_metadata ->> 'latest' AS latest
     FROM claim LEFT JOIN waltide.sync_status s ON s.sync_type = $1
     LEFT JOIN LATERAL (SELECT h.sync_metadata FROM waltide.sync_history h WHERE h.sync_type = $1 AND h.status = 'success'
       ORDER BY h.sync_timestamp DESC LIMIT 1) done ON true`,
    [syncType, instance, json(metadata)],
  );
  const row = rows[0];
  return row ? { id: row.id, last: { at: row.at, latest: row.latest } } : null;
}

/** Who holds the claim of a sync type now. */
export async function readClaim(
  client: pg.Client,
  syncType: string,
): Promise<{ id: string; instance: string; startedAt: Date } | null> {
  const rows = await run<{ id: string; instance: string; startedAt: Date }>(
    client,
    `SELECT a.run_id::text AS id, a.instance_id AS instance, h.sync_timestamp AS "startedAt"
     FROM waltide.active_runs a JOIN waltide.sync_history h ON h.id = a.run_id WHERE a.sync_type = $1`,
    [syncType],
  );
  return rows[0] ?? null;
}

export interface RunProgress {
  readonly records: number;
  readonly metadata: object;
}

/** How far runs in progress are, and which of them somebody wants to end. Of those not listed, the claim is gone. */
export async function saveProgress(
  client: pg.Client,
  instance: string,
  progress: ReadonlyMap<string, RunProgress>,
): Promise<Map<string, { cancelRequested: boolean }>> {
  const rows = await run<{ id: string; cancelRequested: boolean }>(
    client,
    `WITH told AS (
       SELECT * FROM ROWS FROM (pg_catalog.unnest($2::bigint[]), pg_catalog.unnest($3::bigint[]), pg_catalog.unnest($4::jsonb[])) t (run_id, records, metadata)
     ), mine AS (
       SELECT a.run_id, a.cancel_requested, told.records, told.metadata
       FROM waltide.active_runs a JOIN told ON told.run_id = a.run_id WHERE a.instance_id = $1
     ), noted AS (
       UPDATE waltide.sync_history h SET records_processed = mine.records, sync_metadata = mine.metadata,
         duration_seconds = extract(epoch FROM now() - h.sync_timestamp)
       FROM mine WHERE h.id = mine.run_id
     )
     SELECT run_id::text AS id, cancel_requested AS "cancelRequested" FROM mine`,
    [
      instance,
      [...progress.keys()],
      [...progress.values()].map(({ records }) => Math.round(records)),
      [...progress.values()].map(({ metadata }) => json(metadata)),
    ],
  );
  return new Map(rows.map(({ id, cancelRequested }) => [id, { cancelRequested }]));
}

export interface RunEnding extends RunProgress {
  readonly status: 'success' | 'error';
  /** Up to where the work is done, where the run gave a time. */
  readonly latestAt: Date | null;
  readonly error: string | null;
  readonly errorClass: ErrorClass | null;
}

/**
 * Gives the claim back and records how it ended. False where the claim was not the instance's any more: another had
 * closed the run as abandoned. Doing it once more, after a connection was lost on the way, is no harm.
 */
export async function endRun(client: pg.Client, instance: string, id: string, end: RunEnding): Promise<boolean> {
  const rows = await run<{ ended: boolean }>(
    client,
    `WITH claim AS (
       DELETE FROM waltide.active_runs WHERE run_id = $1 AND instance_id = $2 RETURNING run_id, sync_type
     ), history AS (
       UPDATE waltide.sync_history h SET status = $3, records_processed = $4, error_message = $5, error_class = $6, sync_metadata = $7::jsonb,
         duration_seconds = extract(epoch FROM clock_timestamp() - h.sync_timestamp)
       FROM claim WHERE h.id = claim.run_id RETURNING h.sync_type, h.sync_timestamp
     ), status AS (
       UPDATE waltide.sync_status s SET last_sync_status = $3, last_error_message = $5, last_records_processed = $4, updated_at = now(),
         last_sync_timestamp = CASE WHEN $3 = 'success' THEN COALESCE($8, h.sync_timestamp) ELSE s.last_sync_timestamp END,
         successful_sync_count = successful_sync_count + ($3 = 'success')::int,
         failed_sync_count = failed_sync_count + ($3 = 'error')::int
       FROM history h WHERE s.sync_type = h.sync_type
     )
     SELECT EXISTS (SELECT FROM claim) OR EXISTS (
       SELECT FROM waltide.sync_history WHERE id = $1 AND status = $3 AND error_message IS NOT DISTINCT FROM $5) AS ended`,
    [
      id,
      instance,
      end.status,
      Math.round(end.records),
      end.error === null ? null : plain(end.error),
      end.errorClass,
      json(end.metadata),
      end.latestAt,
    ],
  );
  await notifyRuns(client, id);
  return rows[0]!.ended;
}

/** Takes back a run that began nothing: neither history nor counts know of it. False where the claim was not the instance's any more. */
export async function withdrawRun(client: pg.Client, instance: string, id: string): Promise<boolean> {
  const rows = await run(
    client,
    `WITH claim AS (
       DELETE FROM waltide.active_runs WHERE run_id = $1 AND instance_id = $2 RETURNING run_id, sync_type
     ), history AS (
       DELETE FROM waltide.sync_history h USING claim WHERE h.id = claim.run_id
     )
     UPDATE waltide.sync_status s SET last_sync_status = COALESCE(before.status, 'pending'), last_attempt_timestamp = before.sync_timestamp,
       updated_at = now()
     FROM claim LEFT JOIN LATERAL (SELECT h.status, h.sync_timestamp FROM waltide.sync_history h
       WHERE h.sync_type = claim.sync_type AND h.id <> claim.run_id ORDER BY h.sync_timestamp DESC LIMIT 1) before ON true
     WHERE s.sync_type = claim.sync_type RETURNING s.sync_type`,
    [id, instance],
  );
  await notifyRuns(client, id);
  return rows.length > 0;
}

/**
 * Closes runs that nobody does any more as error "abandoned": those of instances whose heartbeats have expired and whose
 * session is gone, and those of `instance` itself that are not among `known`, unless that is null. Resolves with their
 * sync types.
 */
export async function closeAbandoned(
  client: pg.Client,
  instance: string,
  known: readonly string[] | null,
): Promise<readonly string[]> {
  const rows = await run<{ syncType: string }>(
    client,
    `WITH expired AS MATERIALIZED (
       SELECT id FROM waltide.instances WHERE stopped_at IS NULL AND expires_at < now() AND id <> $1
     ), dead AS MATERIALIZED (
       -- One that is only slow still has its session, and with it this lock.
       SELECT id FROM expired WHERE pg_catalog.pg_try_advisory_xact_lock(${instanceKey('id')})
     ), stopped AS (
       UPDATE waltide.instances i SET stopped_at = now() FROM dead WHERE i.id = dead.id AND i.expires_at < now()
     ), claim AS (
       DELETE FROM waltide.active_runs a
       WHERE a.instance_id IN (SELECT id FROM dead) OR (a.instance_id = $1 AND a.run_id <> ALL ($2::bigint[]))
         OR EXISTS (SELECT FROM waltide.instances i WHERE i.id = a.instance_id AND i.stopped_at IS NOT NULL)
       RETURNING a.run_id, a.sync_type, a.instance_id
     ), told AS MATERIALIZED (
       SELECT c.run_id, c.sync_type, pg_catalog.format('abandoned: instance %s gave no sign of life since %s', c.instance_id,
         pg_catalog.to_char(i.heartbeat_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) AS message
       FROM claim c JOIN waltide.instances i ON i.id = c.instance_id
     ), history AS (
       UPDATE waltide.sync_history h SET status = 'error', error_message = told.message, error_class = 'internal',
         duration_seconds = extract(epoch FROM now() - h.sync_timestamp)
       FROM told WHERE h.id = told.run_id RETURNING h.sync_type, h.records_processed, told.message
     )
     UPDATE waltide.sync_status s SET last_sync_status = 'error', last_error_message = h.message, last_records_processed = h.records_processed,
       failed_sync_count = failed_sync_count + 1, updated_at = now()
     FROM history h WHERE s.sync_type = h.sync_type RETURNING s.sync_type AS "syncType"`,
    [instance, known],
  );
  if (rows.length > 0) await notifyRuns(client, '');
  return rows.map(({ syncType }) => syncType);
}

/** Asks for the end of a run, whoever does it. False where it is not in progress. */
export async function requestCancel(client: pg.Client, id: string): Promise<boolean> {
  const rows = await run(
    client,
    'UPDATE waltide.active_runs SET cancel_requested = true WHERE run_id = $1 RETURNING run_id',
    [runNumber(id)],
  );
  if (rows.length === 0) return false;
  await notifyRuns(client, id);
  return true;
}

/** Makes a sync type known before its first run. */
export async function expectRuns(client: pg.Client, syncType: string): Promise<void> {
  await run(client, 'INSERT INTO waltide.sync_status (sync_type) VALUES ($1) ON CONFLICT DO NOTHING', [syncType]);
}

/** Null where there is none of this id. */
export async function readRun(client: pg.Client, id: string): Promise<RunRecord | null> {
  const rows = await run<RunRecord>(client, `SELECT ${RUN_COLUMNS} FROM waltide.sync_history h WHERE h.id = $1`, [
    runNumber(id),
  ]);
  return rows[0] ?? null;
}

export interface RunFilter {
  /** A pattern as in source.tables: `*` and `?`. */
  readonly syncType?: string | undefined;
  readonly status?: RunStatus | undefined;
  readonly instance?: string | undefined;
  readonly since?: Date | undefined;
  /** Only runs older than this one, for the next page. */
  readonly before?: string | undefined;
  /** Default 50. */
  readonly limit?: number | undefined;
}

/** Newest first. */
export async function listRuns(client: pg.Client, filter: RunFilter = {}): Promise<RunRecord[]> {
  const { syncType, status, instance, since, before, limit = 50 } = filter;
  return run<RunRecord>(
    client,
    `SELECT ${RUN_COLUMNS} FROM waltide.sync_history h
     WHERE ($1::text IS NULL OR h.sync_type LIKE $1) AND ($2::text IS NULL OR h.status = $2)
       AND ($3::text IS NULL OR h.service_instance LIKE $3) AND ($4::timestamptz IS NULL OR h.sync_timestamp >= $4)
       AND ($5::bigint IS NULL OR h.id < $5) ORDER BY h.id DESC LIMIT $6`,
    [likePattern(syncType), status, likePattern(instance), since, before && runNumber(before), limit],
  );
}

/** Every sync type that has ever run here, by name. */
export async function listSyncStatus(client: pg.Client, syncType?: string): Promise<SyncStatus[]> {
  return run<SyncStatus>(
    client,
    `SELECT sync_type AS "syncType", last_sync_timestamp AS "lastSyncAt", last_attempt_timestamp AS "lastAttemptAt",
       last_sync_status AS status, last_error_message AS error, successful_sync_count::float8 AS successes,
       failed_sync_count::float8 AS failures, last_records_processed::float8 AS records, created_at AS "createdAt", updated_at AS "updatedAt"
     FROM waltide.sync_status WHERE $1::text IS NULL OR sync_type LIKE $1 ORDER BY sync_type`,
    [likePattern(syncType)],
  );
}

async function notifyRuns(client: pg.Client, id: string): Promise<void> {
  await run(client, 'SELECT pg_catalog.pg_notify($1, $2)', [RUN_CHANNEL, id]);
}

function runNumber(id: string): string {
  if (/^\d{1,18}$/.test(id)) return id;
  throw new WaltideError('USAGE', `"${id}" is no id of a run`, 'It is a number; `waltide history` shows them.');
}

function likePattern(pattern: string | undefined): string | null {
  if (pattern === undefined) return null;
  return pattern
    .replace(/[\\%_]/g, '\\$&')
    .replaceAll('*', '%')
    .replaceAll('?', '_');
}

/** PostgreSQL's text and jsonb hold no NUL. */
function json(value: object): string {
  return JSON.stringify(value, (_key, one: unknown) => {
    if (typeof one === 'bigint') return one.toString();
    return typeof one === 'string' ? plain(one) : one;
  });
}

function plain(text: string): string {
  return text.replaceAll('\u0000', '�');
}
