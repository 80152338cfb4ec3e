import type pg from 'pg';
import { trackingQuery as query } from './tracking-query.ts';

/* What alert rules are about, as far as the control schema knows it. Each is one small query. */

export interface SinkLetters {
  readonly sink: string;
  readonly open: number;
}

/** Of sinks that have any. */
export function openLettersBySink(client: pg.Client, slot: string): Promise<SinkLetters[]> {
  return query(
    client,
    `SELECT sink, count(*)::float8 AS open FROM waltide.dead_letters
     WHERE slot_name = $1 AND state IN ('open', 'retrying') GROUP BY sink`,
    [slot],
  );
}

export interface FailedSync {
  readonly syncType: string;
  readonly runId: string;
  readonly error: string;
}

/** Sync types whose last run is over and ended in an error that nobody meant; those that another slot's process does are left out. */
export function failedSyncs(client: pg.Client, slot: string): Promise<FailedSync[]> {
  return query(
    client,
    `SELECT s.sync_type AS "syncType", h.id::text AS "runId", COALESCE(h.error_message, '') AS error
     FROM waltide.sync_status s CROSS JOIN LATERAL (
       SELECT l.* FROM waltide.sync_history l WHERE l.sync_type = s.sync_type AND l.status <> 'in_progress'
       ORDER BY l.sync_timestamp DESC LIMIT 1) h
     LEFT JOIN waltide.instances i ON i.id = h.service_instance
     WHERE s.failed_sync_count > 0 AND h.status = 'error' AND h.error_class IS NOT NULL AND (i.id IS NULL OR i.slot_name = $1)`,
    [slot],
  );
}

export interface GoneInstance {
  /** `host (role)`: a process that is started again there takes its place. */
  readonly subject: string;
  readonly id: string;
  readonly heartbeatAt: Date;
  /** The first of that role that was started after its last heartbeat. */
  readonly successor: string | null;
  /** How long that has been there, in seconds. */
  readonly succeededSeconds: number | null;
  /** An alert has been opened for it. */
  readonly told: boolean;
}

/**
 * Of each subject the last instance that gave no sign of life any more without having stopped: also one that another has
 * found dead. A killed command of the command line is no loss.
 */
export function goneInstances(client: pg.Client, slot: string, rule: string): Promise<GoneInstance[]> {
  return query(
    client,
    `WITH known AS (
       SELECT i.*, pg_catalog.regexp_replace(i.id, ':[0-9]+:[0-9a-f]+$', '') || ' (' || i.role || ')' AS subject,
         (i.stopped_at IS NULL AND i.expires_at < now()) OR i.heartbeat_at < i.stopped_at AS gone
       FROM waltide.instances i WHERE i.slot_name = $1 AND i.role <> 'cli'
     ), last AS (
       SELECT DISTINCT ON (subject) * FROM known WHERE gone ORDER BY subject, heartbeat_at DESC
     )
     SELECT last.subject, last.id, last.heartbeat_at AS "heartbeatAt", next.id AS successor,
       extract(epoch FROM now() - next.started_at)::float8 AS "succeededSeconds",
       EXISTS (SELECT FROM waltide.alerts a WHERE a.slot_name = $1 AND a.rule = $2 AND a.subject = last.subject AND a.state <> 'pending'
         AND a.value >= extract(epoch FROM last.heartbeat_at)::float8 - 0.001) AS told
     FROM last LEFT JOIN LATERAL (SELECT k.id, k.started_at FROM known k
       WHERE k.role = last.role AND k.started_at > last.heartbeat_at ORDER BY k.started_at LIMIT 1) next ON true`,
    [slot, rule],
  );
}
