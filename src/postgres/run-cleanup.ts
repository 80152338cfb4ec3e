import type pg from 'pg';
import { trackingQuery } from './tracking-query.ts';
import { comparedAll } from './validations.ts';

/** Rows that one statement removes, so that no lock and no transaction is long. */
const ROWS_MAX = 10_000;
/** Nobody asks for a process that has been gone for longer. */
const INSTANCE_DAYS_MAX = 7;

/**
 * What is removed from each table of schema `waltide` once it is older than $1 days. Of every sync type the last run and
 * the last success stay: an incremental one goes on from them.
 */
const OLD: Readonly<Record<string, string>> = {
  sync_history: `SELECT h.ctid FROM waltide.sync_history h
    WHERE h.sync_timestamp < now() - $1 * interval '1 day' AND h.status <> 'in_progress'
      AND EXISTS (SELECT FROM waltide.sync_history n WHERE n.sync_type = h.sync_type AND n.sync_timestamp > h.sync_timestamp)
      AND (h.status <> 'success' OR EXISTS (SELECT FROM waltide.sync_history n
        WHERE n.sync_type = h.sync_type AND n.status = 'success' AND n.sync_timestamp > h.sync_timestamp))`,
  instances: `SELECT i.ctid FROM waltide.instances i
    WHERE i.stopped_at < now() - LEAST($1::float8, ${INSTANCE_DAYS_MAX}) * interval '1 day'
      AND NOT EXISTS (SELECT FROM waltide.active_runs a WHERE a.instance_id = i.id)`,
  dead_letters: `SELECT d.ctid FROM waltide.dead_letters d WHERE d.closed_at < now() - $1 * interval '1 day' AND d.state <> 'retrying'`,
  // With their history and notifications.
  alerts: `SELECT a.ctid FROM waltide.alerts a WHERE a.resolved_at < now() - $1 * interval '1 day'`,
  // With their results. What was found last of a table in a sink stays: its score is shown, and alerts go by it.
  validations: `SELECT v.ctid FROM waltide.validations v WHERE v.finished_at < now() - $1 * interval '1 day'
    AND (NOT ${comparedAll('v')}
      OR NOT EXISTS (SELECT FROM waltide.validation_results r WHERE r.validation_id = v.id AND r.finished AND NOT EXISTS (
        SELECT FROM waltide.validation_results n JOIN waltide.validations w ON w.id = n.validation_id
        WHERE w.slot_name = v.slot_name AND n.sink = r.sink AND n.table_name = r.table_name AND n.finished
          AND ${comparedAll('w')} AND n.updated_at > r.updated_at)))`,
  snapshots: `SELECT s.ctid FROM waltide.snapshots s WHERE s.finished_at < now() - $1 * interval '1 day'`,
};

/** Removes what is older than `days`. Resolves with how many rows of each table that were; the aborted signal ends it early. */
export async function cleanUp(
  client: pg.Client,
  days: number,
  signal?: AbortSignal,
): Promise<Readonly<Record<string, number>>> {
  const removed: Record<string, number> = {};
  for (const [table, old] of Object.entries(OLD)) {
    removed[table] = 0;
    for (;;) {
      signal?.throwIfAborted();
      const rows = await trackingQuery(
        client,
        `DELETE FROM waltide.${table} WHERE ctid = ANY (ARRAY(${old} LIMIT ${ROWS_MAX})) RETURNING 1`,
        [days],
      );
      removed[table] += rows.length;
      if (rows.length < ROWS_MAX) break;
    }
  }
  return removed;
}
