import type pg from 'pg';
import type { ScheduleConfig } from '../config/schema.ts';
import { RUN_CHANNEL } from './runs.ts';
import { trackingQuery as run } from './tracking-query.ts';

/** What is told on RUN_CHANNEL when somebody wants a run of a schedule. */
export const SCHEDULE_NOTICE = 'schedule';

/** A row of `waltide.schedules`. */
export interface ScheduleRecord {
  readonly name: string;
  /** The last occurrence that was taken. */
  readonly dueAt: Date;
  readonly requestedAt: Date | null;
  /** True where the instance that took it died before it began. */
  readonly orphaned: boolean;
  readonly lastRunId: string | null;
  readonly lastRunAt: Date | null;
  /** Why the last occurrence did not become a run. */
  readonly note: string | null;
}

/**
 * Makes schedules known. What was due before `now` is none of a new one's business, nor of one that was due at other times
 * until now.
 */
export async function expectSchedule(
  client: pg.Client,
  slot: string,
  schedule: ScheduleConfig,
  now: Date,
): Promise<void> {
  const { name, type, cron, timeZone } = schedule;
  await run(
    client,
    `INSERT INTO waltide.schedules AS s (slot_name, name, type, cron, time_zone, due_at) VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT (slot_name, name) DO UPDATE SET type = excluded.type, cron = excluded.cron, time_zone = excluded.time_zone, updated_at = now(),
       due_at = CASE WHEN (s.cron, s.time_zone) = (excluded.cron, excluded.time_zone) THEN s.due_at ELSE excluded.due_at END`,
    [slot, name, type, cron, timeZone, now],
  );
  await run(client, 'INSERT INTO waltide.sync_status (sync_type) VALUES ($1) ON CONFLICT DO NOTHING', [name]);
}

/** Those of a slot, by name. */
export async function readSchedules(client: pg.Client, slot: string): Promise<Map<string, ScheduleRecord>> {
  const rows = await run<ScheduleRecord>(
    client,
    `SELECT s.name, s.due_at AS "dueAt", s.requested_at AS "requestedAt", s.last_run_id::text AS "lastRunId",
       s.last_run_at AS "lastRunAt", s.note,
       s.taken_by IS NOT NULL AND NOT EXISTS (
         SELECT FROM waltide.instances i WHERE i.id = s.taken_by AND i.stopped_at IS NULL AND i.expires_at > now()) AS orphaned
     FROM waltide.schedules s WHERE s.slot_name = $1`,
    [slot],
  );
  return new Map(rows.map((row) => [row.name, row]));
}

/** Whose occurrence it is: true for one instance only. */
export async function takeOccurrence(
  client: pg.Client,
  slot: string,
  name: string,
  { due, next, instance }: { due: Date; next: Date | null; instance: string },
): Promise<boolean> {
  const rows = await run(
    client,
    `UPDATE waltide.schedules SET due_at = $3, next_due_at = $4, taken_by = $5, note = NULL, updated_at = now()
     WHERE slot_name = $1 AND name = $2 AND due_at < $3 RETURNING name`,
    [slot, name, due, next, instance],
  );
  return rows.length > 0;
}

/** An occurrence that died with its instance before it began; true for one instance only. */
export async function takeOver(client: pg.Client, slot: string, name: string, instance: string): Promise<boolean> {
  const rows = await run(
    client,
    `UPDATE waltide.schedules s SET taken_by = $3, updated_at = now()
     WHERE s.slot_name = $1 AND s.name = $2 AND s.taken_by IS NOT NULL AND NOT EXISTS (
       SELECT FROM waltide.instances i WHERE i.id = s.taken_by AND i.stopped_at IS NULL AND i.expires_at > now())
     RETURNING name`,
    [slot, name, instance],
  );
  return rows.length > 0;
}

/** Asks for a run now: whichever process can do it takes it up. */
export async function requestScheduleRun(client: pg.Client, slot: string, schedule: ScheduleConfig): Promise<void> {
  await expectSchedule(client, slot, schedule, new Date());
  await run(
    client,
    'UPDATE waltide.schedules SET requested_at = now(), note = NULL WHERE slot_name = $1 AND name = $2',
    [slot, schedule.name],
  );
  await run(client, 'SELECT pg_catalog.pg_notify($1, $2)', [RUN_CHANNEL, SCHEDULE_NOTICE]);
}

/** True where it was still there: for who takes it up, and for who takes it back. */
export async function takeRequest(client: pg.Client, slot: string, name: string): Promise<boolean> {
  const rows = await run(
    client,
    `UPDATE waltide.schedules SET requested_at = NULL, updated_at = now()
     WHERE slot_name = $1 AND name = $2 AND requested_at IS NOT NULL RETURNING name`,
    [slot, name],
  );
  return rows.length > 0;
}

/** It has begun. */
export async function noteScheduleRun(client: pg.Client, slot: string, name: string, runId: string): Promise<void> {
  await run(
    client,
    `UPDATE waltide.schedules SET taken_by = NULL, last_run_id = $3, last_run_at = now(), note = NULL, updated_at = now()
     WHERE slot_name = $1 AND name = $2`,
    [slot, name, runId],
  );
}

/** It will not be done, and why. */
export async function noteScheduleSkipped(client: pg.Client, slot: string, name: string, note: string): Promise<void> {
  await run(
    client,
    'UPDATE waltide.schedules SET taken_by = NULL, note = $3, updated_at = now() WHERE slot_name = $1 AND name = $2',
    [slot, name, note],
  );
}
