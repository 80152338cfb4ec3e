import type pg from 'pg';
import type { Severity } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { isMissing, queryError } from './connection.ts';

export const ALERT_STATES = ['pending', 'firing', 'acknowledged', 'resolved'] as const;
export type AlertState = (typeof ALERT_STATES)[number];
export type AlertEvent = 'opened' | 'changed' | 'acknowledged' | 'resolved';

/** What changes of an alert while it is open. */
export interface AlertDraft {
  readonly rule: string;
  readonly subject: string;
  readonly state: AlertState;
  readonly severity: Severity;
  readonly summary: string;
  readonly value: number | null;
  readonly threshold: number | null;
  /** Since when the condition holds. */
  readonly since: Date;
  readonly openedAt: Date | null;
  /** Since when it is clear, or less severe than `severity`; null while neither. */
  readonly clearSince: Date | null;
  readonly acknowledgedAt: Date | null;
  readonly acknowledgedBy: string | null;
  readonly note: string | null;
  readonly resolvedAt: Date | null;
}

/** A row of `waltide.alerts`. */
export interface AlertRecord extends AlertDraft {
  readonly id: number;
  readonly observedAt: Date;
  readonly observedBy: string;
}

/** A row of `waltide.alert_history`. */
export interface AlertEventRecord {
  readonly id: number;
  readonly alertId: number;
  readonly rule: string;
  readonly subject: string;
  readonly at: Date;
  readonly event: AlertEvent;
  readonly severity: Severity;
  readonly summary: string;
  readonly value: number | null;
  /** An instance, or whoever acknowledged it. */
  readonly by: string;
  readonly note: string | null;
}

const COLUMNS = `a.id::float8 AS id, a.rule, a.subject, a.state, a.severity, a.summary, a.value, a.threshold, a.since,
  a.opened_at AS "openedAt", a.clear_since AS "clearSince", a.acknowledged_at AS "acknowledgedAt", a.acknowledged_by AS "acknowledgedBy",
  a.note, a.resolved_at AS "resolvedAt", a.observed_at AS "observedAt", a.observed_by AS "observedBy"`;

/** Longer than a round takes; a process that hangs in one must not hold up the others. */
const LOCK_TIMEOUT_MS = 10_000;

/**
 * Does `work` while no other process changes alerts of this slot, in one transaction; `now` is the server's time. Rejects as
 * `work` does, and with SOURCE_SETTINGS where the tables are not there yet.
 */
export async function changingAlerts<T>(client: pg.Client, slot: string, work: (now: Date) => Promise<T>): Promise<T> {
  await query(
    client,
    `BEGIN; SET LOCAL lock_timeout = ${LOCK_TIMEOUT_MS}; SET LOCAL idle_in_transaction_session_timeout = ${LOCK_TIMEOUT_MS}`,
  );
  try {
    await query(
      client,
      `SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('waltide alerts ' || $1::text, 0))`,
      [slot],
    );
    // Of after the lock was had: whoever had it before has an earlier one.
    const times = await query<{ now: Date }>(client, 'SELECT pg_catalog.clock_timestamp() AS now');
    const result = await work(times[0]!.now);
    await query(client, 'COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {});
    throw error;
  }
}

/** All that are not resolved, pending ones included. */
export function openAlerts(client: pg.Client, slot: string): Promise<AlertRecord[]> {
  return query(client, `SELECT ${COLUMNS} FROM waltide.alerts a WHERE slot_name = $1 AND state <> 'resolved'`, [slot]);
}

/** Writes one under the lock of `changingAlerts`; `id` null for a new one. Resolves with its id. */
export async function saveAlert(
  client: pg.Client,
  slot: string,
  id: number | null,
  draft: AlertDraft,
  seen: { readonly at: Date; readonly by: string },
): Promise<number> {
  const values = [
    ...[draft.state, draft.severity, draft.summary, draft.value, draft.threshold, draft.since, draft.openedAt],
    ...[draft.clearSince, draft.acknowledgedAt, draft.acknowledgedBy, draft.note, draft.resolvedAt, seen.at, seen.by],
  ];
  const rows = await query<{ id: number }>(
    client,
    id === null
      ? `INSERT INTO waltide.alerts (state, severity, summary, value, threshold, since, opened_at, clear_since, acknowledged_at,
           acknowledged_by, note, resolved_at, observed_at, observed_by, slot_name, rule, subject)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) RETURNING id::float8 AS id`
      : `UPDATE waltide.alerts SET state = $1, severity = $2, summary = $3, value = $4, threshold = $5, since = $6, opened_at = $7,
           clear_since = $8, acknowledged_at = $9, acknowledged_by = $10, note = $11, resolved_at = $12, observed_at = $13, observed_by = $14
         WHERE id = $15 RETURNING id::float8 AS id`,
    id === null ? [...values, slot, draft.rule, draft.subject] : [...values, id],
  );
  return rows[0]!.id;
}

export async function forgetAlert(client: pg.Client, id: number): Promise<void> {
  await query(client, 'DELETE FROM waltide.alerts WHERE id = $1', [id]);
}

/** Resolves with the event's id. */
export async function recordAlertEvent(
  client: pg.Client,
  alertId: number,
  event: AlertEvent,
  at: Date,
  { severity, summary, value, note }: Pick<AlertDraft, 'severity' | 'summary' | 'value' | 'note'>,
  by: string,
): Promise<number> {
  const rows = await query<{ id: number }>(
    client,
    `INSERT INTO waltide.alert_history (alert_id, at, event, severity, summary, value, by, note)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id::float8 AS id`,
    [alertId, at, event, severity, summary, value, by, note],
  );
  return rows[0]!.id;
}

/**
 * Somebody has seen it: it stays until its condition is clear, and counts as taken care of. Rejects with NOT_FOUND, and with
 * ALERT where there is nothing left to acknowledge.
 */
export async function acknowledgeAlert(
  client: pg.Client,
  slot: string,
  id: number,
  by: string,
  note: string | null,
): Promise<AlertRecord> {
  return changingAlerts(client, slot, async (now) => {
    const alert = await readAlert(client, slot, id);
    if (alert.state === 'resolved' || alert.state === 'pending')
      throw new WaltideError(
        'ALERT',
        `alert ${id} is ${alert.state}: there is nothing to acknowledge`,
        'See `waltide alerts` for those that are open.',
      );
    const acknowledged = { ...alert, state: 'acknowledged' as const, acknowledgedAt: now, acknowledgedBy: by, note };
    await saveAlert(client, slot, id, acknowledged, { at: alert.observedAt, by: alert.observedBy });
    await recordAlertEvent(client, id, 'acknowledged', now, acknowledged, by);
    return acknowledged;
  });
}

export interface AlertFilter {
  readonly states?: readonly AlertState[];
  readonly severity?: Severity | undefined;
  readonly rule?: string | undefined;
  readonly limit: number;
}

/** The open ones first, the gravest and newest of them first; then the resolved ones, newest first. None where there is no table yet. */
export async function listAlerts(
  client: pg.Client,
  slot: string,
  { states = ['firing', 'acknowledged'], severity, rule, limit }: AlertFilter,
): Promise<AlertRecord[]> {
  return query(
    client,
    `SELECT ${COLUMNS} FROM waltide.alerts a
     WHERE slot_name = $1 AND state = ANY ($2) AND ($3::text IS NULL OR severity = $3) AND ($4::text IS NULL OR rule = $4)
     ORDER BY resolved_at DESC NULLS FIRST, pg_catalog.array_position(ARRAY['critical', 'warning', 'info'], severity), id DESC LIMIT $5`,
    [slot, states, severity, rule, limit],
    true,
  );
}

export interface AlertCount {
  readonly rule: string;
  readonly severity: Severity;
  readonly open: number;
}

/** Of those that are firing or acknowledged. */
export function countAlerts(client: pg.Client, slot: string): Promise<AlertCount[]> {
  return query(
    client,
    `SELECT rule, severity, count(*)::float8 AS open FROM waltide.alerts
     WHERE slot_name = $1 AND state IN ('firing', 'acknowledged') GROUP BY rule, severity`,
    [slot],
    true,
  );
}

/** Rejects with NOT_FOUND. */
export async function readAlert(client: pg.Client, slot: string, id: number): Promise<AlertRecord> {
  const rows = await query<AlertRecord>(
    client,
    `SELECT ${COLUMNS} FROM waltide.alerts a WHERE slot_name = $1 AND id = $2`,
    [slot, id],
    true,
  );
  if (rows[0]) return rows[0];
  throw new WaltideError('NOT_FOUND', `there is no alert ${id}`, '`waltide alerts --all` lists them.');
}

/** What became of alerts, newest first; of one, where `alert` is not null; older than event `before`, where that is not null. */
export async function alertHistory(
  client: pg.Client,
  slot: string,
  { alert, before, limit }: { readonly alert: number | null; readonly before: number | null; readonly limit: number },
): Promise<AlertEventRecord[]> {
  return query(
    client,
    `SELECT h.id::float8 AS id, h.alert_id::float8 AS "alertId", a.rule, a.subject, h.at, h.event, h.severity, h.summary, h.value, h.by, h.note
     FROM waltide.alert_history h JOIN waltide.alerts a ON a.id = h.alert_id
     WHERE a.slot_name = $1 AND ($2::float8 IS NULL OR h.alert_id = $2::float8) AND ($3::float8 IS NULL OR h.id < $3::float8)
     ORDER BY h.id DESC LIMIT $4`,
    [slot, alert, before, limit],
    true,
  );
}

/** `empty`: none rather than an error where the tables are not there yet. */
async function query<T extends object = object>(
  client: pg.Client,
  sql: string,
  values?: unknown[],
  empty = false,
): Promise<T[]> {
  try {
    return (await client.query<T>(sql, values)).rows;
  } catch (error) {
    if (isMissing(error) && empty) return [];
    if (isMissing(error))
      throw new WaltideError(
        'SOURCE_SETTINGS',
        'schema "waltide" of the source has no alerts yet',
        'Run `waltide setup` with this version first.',
        { cause: error },
      );
    throw queryError(error, 'the alerts in schema "waltide"');
  }
}
