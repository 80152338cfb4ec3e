import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { Log } from '../log.ts';
import { queryError } from './connection.ts';

const POLL_MS = 25;
const POLL_MAX_MS = 1000;
/** Shorter ones are the rule, and nobody asks. */
const TOLD_AFTER_MS = 2000;
const TOLD_EVERY_MS = 10_000;

const WRITERS = `
SELECT DISTINCT l.virtualtransaction AS id,
       COALESCE('pid ' || l.pid, (SELECT 'prepared transaction ' || quote_literal(p.gid) FROM pg_catalog.pg_prepared_xacts p
         WHERE '-1/' || p.transaction = l.virtualtransaction LIMIT 1), l.virtualtransaction) AS who,
       EXISTS (SELECT FROM pg_catalog.pg_stat_activity s WHERE s.pid = l.pid AND s.wait_event = 'SyncRep') AS committing
FROM pg_catalog.pg_locks l
WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND (l.relation = $1 OR l.relation IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::regclass)))`;

/**
 * Resolves once every transaction that has written to the table by now is over, and so visible to whoever looks next.
 * What such a transaction wrote before the table was published is not in the stream, and what it committed may have been
 * streamed before it is visible; either way a snapshot taken earlier would miss it. CREATE INDEX CONCURRENTLY waits alike.
 * `onWaiting` hears of it where that takes long.
 */
export async function writersGone(
  client: pg.Client,
  table: { readonly oid: number; readonly schema: string; readonly table: string },
  log: Log,
  signal: AbortSignal,
  onWaiting?: (who: string) => Promise<unknown>,
): Promise<void> {
  let waiting: Set<string> | null = null;
  let pauseMs = POLL_MS;
  let tellAt = performance.now() + TOLD_AFTER_MS;
  for (;;) {
    const writers = await listWriters(client, table.oid);
    const ids: Set<string> = new Set(writers.map(({ id }) => id));
    waiting = waiting === null ? ids : new Set([...waiting].filter((id: string) => ids.has(id)));
    if (waiting.size === 0) return;
    if (performance.now() >= tellAt) {
      tellAt = performance.now() + TOLD_EVERY_MS;
      const older = writers.filter(({ id }) => waiting!.has(id)).map((writer) => writer.who);
      const who = older.join(', ');
      await onWaiting?.(who);
      log.warn(
        { table: `${table.schema}.${table.table}`, transactions: who },
        'the snapshot waits for older transactions that have written to the table to end',
      );
    }
    await sleep(pauseMs, undefined, { signal });
    pauseMs = Math.min(pauseMs * 2, POLL_MAX_MS);
  }
}

/** A transaction that has written to a table and is not over. */
interface Writer {
  readonly id: string;
  readonly who: string;
  /** Its commit record is in the WAL, and waits for a standby. */
  readonly committing: boolean;
}

/**
 * Resolves with true once what the stream has brought of the table by now is visible to whoever looks next; with false
 * where a commit has waited for its standby for longer than `boundMs`. A transaction that is still at work after
 * `workingMs` has not committed, so the stream has brought nothing of it.
 */
export async function commitsVisible(
  client: pg.Client,
  oid: number,
  { workingMs, boundMs }: { readonly workingMs: number; readonly boundMs: number },
  signal: AbortSignal,
): Promise<boolean> {
  const begun = performance.now();
  let waiting = (await listWriters(client, oid)).map(({ id }) => id);
  for (let pauseMs = 2; waiting.length > 0; pauseMs = Math.min(pauseMs * 2, POLL_MS)) {
    const ms = performance.now() - begun;
    if (ms > boundMs) return false;
    await sleep(pauseMs, undefined, { signal });
    const writers = await listWriters(client, oid);
    waiting = writers
      .filter(({ id, committing }) => waiting.includes(id) && (committing || ms < workingMs))
      .map(({ id }) => id);
  }
  return true;
}

async function listWriters(client: pg.Client, oid: number): Promise<Writer[]> {
  try {
    return (await client.query<Writer>(WRITERS, [oid])).rows;
  } catch (error) {
    throw queryError(error, 'reading pg_locks');
  }
}
