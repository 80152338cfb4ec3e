import type pg from 'pg';
import type { ErrorClass } from '../errors.ts';
import type { RunStatus } from './runs.ts';
import { trackingQuery } from './tracking-query.ts';

/** What became of the runs of one sync type in a time. Runs in progress count in `runs` and `inProgress` only. */
export interface RunStatistics {
  readonly syncType: string;
  readonly runs: number;
  readonly inProgress: number;
  readonly successes: number;
  readonly errors: number;
  /** Ended by a person: neither a success nor a failure. */
  readonly cancelled: number;
  /** Successes among what succeeded or failed, in per cent; null where nothing has yet. */
  readonly successRate: number | null;
  /** Of the successes. */
  readonly durationSecondsAverage: number | null;
  readonly durationSecondsP95: number | null;
  readonly records: number;
  readonly recordsPerSecond: number | null;
  readonly errorClasses: Readonly<Partial<Record<ErrorClass, number>>>;
  readonly lastAt: Date;
  readonly lastStatus: RunStatus;
}

/** By sync type, of the runs that began since `since`. */
export async function runStatistics(client: pg.Client, since: Date): Promise<RunStatistics[]> {
  return trackingQuery<RunStatistics>(
    client,
    `WITH h AS (SELECT * FROM waltide.sync_history WHERE sync_timestamp >= $1),
     classes AS (
       SELECT sync_type, jsonb_object_agg(error_class, n) AS classes FROM (
         SELECT sync_type, error_class, count(*) AS n FROM h WHERE error_class IS NOT NULL GROUP BY 1, 2) c GROUP BY 1
     ), counted AS (
       SELECT sync_type, count(*)::float8 AS runs, count(*) FILTER (WHERE status = 'in_progress')::float8 AS in_progress,
         count(*) FILTER (WHERE status = 'success')::float8 AS successes, count(error_class)::float8 AS errors,
         count(*) FILTER (WHERE status = 'error' AND error_class IS NULL)::float8 AS cancelled,
         avg(duration_seconds) FILTER (WHERE status = 'success') AS average,
         percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_seconds) FILTER (WHERE status = 'success') AS p95,
         sum(records_processed)::float8 AS records, sum(duration_seconds) AS seconds, max(sync_timestamp) AS last_at,
         (array_agg(status ORDER BY id DESC))[1] AS last_status
       FROM h GROUP BY 1
     )
     SELECT sync_type AS "syncType", runs, in_progress AS "inProgress", successes, errors, cancelled,
       CASE WHEN successes + errors > 0 THEN 100 * successes / (successes + errors) END AS "successRate",
       average AS "durationSecondsAverage", p95 AS "durationSecondsP95", records,
       CASE WHEN seconds > 0 THEN records / seconds END AS "recordsPerSecond",
       COALESCE(classes, '{}') AS "errorClasses", last_at AS "lastAt", last_status AS "lastStatus"
     FROM counted LEFT JOIN classes USING (sync_type) ORDER BY sync_type`,
    [since],
  );
}
