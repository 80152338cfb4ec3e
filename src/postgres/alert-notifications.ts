import type pg from 'pg';
import { queryError } from './connection.ts';

/** One that is to be sent by whoever has claimed it. */
export interface ClaimedNotification<Payload> {
  readonly id: number;
  /** How many attempts there have been, this one included. */
  readonly attempts: number;
  readonly payload: Payload;
}

/** A row of `waltide.alert_notifications`, for people. */
export interface NotificationRecord {
  readonly webhook: string;
  readonly event: string;
  readonly state: 'pending' | 'sent' | 'failed';
  readonly attempts: number;
  readonly lastError: string | null;
  readonly createdAt: Date;
  readonly sentAt: Date | null;
}

/** One for each webhook. In the transaction of what they tell. */
export async function queueNotifications(
  client: pg.Client,
  slot: string,
  of: { readonly alertId: number; readonly eventId: number },
  webhooks: readonly string[],
  payload: unknown,
): Promise<void> {
  await query(
    client,
    `INSERT INTO waltide.alert_notifications (slot_name, alert_id, event_id, webhook, payload)
     SELECT $1, $2, $3, name, $5 FROM pg_catalog.unnest($4::text[]) name ON CONFLICT DO NOTHING`,
    [slot, of.alertId, of.eventId, webhooks, JSON.stringify(payload)],
  );
}

/** Those of a slot ($1) and webhook ($2) before which none of the same alert is left. */
const NEXT = `n.slot_name = $1 AND n.webhook = $2 AND n.state = 'pending' AND NOT EXISTS (
  SELECT FROM waltide.alert_notifications o
  WHERE o.alert_id = n.alert_id AND o.webhook = n.webhook AND o.state = 'pending' AND o.id < n.id)`;

/**
 * Takes the oldest that is due, so that nobody else does within `leaseMs`; one of the same alert that is older goes first. Null
 * where none is due, with when to look again: null where none is left.
 */
export async function claimNotification<Payload>(
  client: pg.Client,
  slot: string,
  webhook: string,
  leaseMs: number,
): Promise<ClaimedNotification<Payload> | { readonly dueInMs: number | null }> {
  const [claimed] = await query<ClaimedNotification<Payload>>(
    client,
    `UPDATE waltide.alert_notifications SET attempts = attempts + 1, next_at = now() + $3 * interval '1 ms'
     WHERE id = (SELECT n.id FROM waltide.alert_notifications n
       WHERE ${NEXT} AND n.next_at <= now() ORDER BY n.id LIMIT 1 FOR UPDATE SKIP LOCKED)
     RETURNING id::float8 AS id, attempts, payload`,
    [slot, webhook, leaseMs],
  );
  if (claimed) return claimed;
  const rows = await query<{ ms: number | null }>(
    client,
    `SELECT extract(epoch FROM min(n.next_at) - now())::float8 * 1000 AS ms FROM waltide.alert_notifications n WHERE ${NEXT}`,
    [slot, webhook],
  );
  return { dueInMs: rows[0]!.ms };
}

/** It has been taken: whoever claims it meanwhile sends it once more, and nobody after that. */
export async function noteSent(client: pg.Client, id: number): Promise<void> {
  await query(
    client,
    `UPDATE waltide.alert_notifications SET state = 'sent', sent_at = now(), last_error = NULL WHERE id = $1 AND state <> 'sent'`,
    [id],
  );
}

/** It is tried again after `retryInMs`, or given up where that is null. Nothing where another has claimed it since. */
export async function noteNotSent(
  client: pg.Client,
  { id, attempts }: Pick<ClaimedNotification<unknown>, 'id' | 'attempts'>,
  error: string,
  retryInMs: number | null,
): Promise<void> {
  await query(
    client,
    `UPDATE waltide.alert_notifications SET last_error = $3, state = CASE WHEN $4::float8 IS NULL THEN 'failed' ELSE state END,
       next_at = now() + COALESCE($4::float8, 0) * interval '1 ms'
     WHERE id = $1 AND attempts = $2 AND state = 'pending'`,
    [id, attempts, error, retryInMs],
  );
}

/** Those of one alert, oldest first. */
export function listNotifications(client: pg.Client, alertId: number): Promise<NotificationRecord[]> {
  return query(
    client,
    `SELECT n.webhook, h.event, n.state, n.attempts, n.last_error AS "lastError", n.created_at AS "createdAt", n.sent_at AS "sentAt"
     FROM waltide.alert_notifications n JOIN waltide.alert_history h ON h.id = n.event_id WHERE n.alert_id = $1 ORDER BY n.id`,
    [alertId],
  );
}

async function query<T extends object = object>(client: pg.Client, sql: string, values: unknown[]): Promise<T[]> {
  try {
    return (await client.query<T>(sql, values)).rows;
  } catch (error) {
    throw queryError(error, 'notifications of alerts');
  }
}
