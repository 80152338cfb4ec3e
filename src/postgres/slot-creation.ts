import type pg from 'pg';
import { messageOf, WaltideError } from '../errors.ts';
import { type Lsn, parseLsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import { queryError, sqlState } from './connection.ts';

/** How often one who waits for a slot is told what for. */
const BLOCKERS_INTERVAL_MS = 2000;
/** A server that does not do what it was told by then does not answer at all. */
const UNANSWERED_MS = 10_000;

export interface SlotCreation {
  readonly name: string;
  /** For at most this long the slot may wait for older transactions to end. */
  readonly waitMs: number;
  /** `export`: existing rows can be read exactly as of the slot's beginning. */
  readonly snapshot: 'export' | 'none';
  /** Ends with the session that makes it. */
  readonly temporary?: boolean;
  /** Standbys keep a copy of it in step (PostgreSQL 17 and later). */
  readonly failover?: boolean;
  /** A session on the primary, where the slot is on a standby of it; null where it is on the primary. */
  readonly primary?: pg.Client | null;
  /** Rejects with its reason once it aborts. */
  readonly signal?: AbortSignal;
}

export interface CreatedSlot {
  readonly consistentPoint: Lsn;
  /** For SET TRANSACTION SNAPSHOT; lives as long as the walsender session runs no other command. Null unless exported. */
  readonly snapshotName: string | null;
}

/** Of a client of node-postgres. */
interface Internals {
  readonly processID: number;
  readonly connection: { readonly stream: { destroy(): void } };
}

/**
 * Makes a slot. PostgreSQL first waits for every transaction older than the slot to end; `watcher` (an ordinary
 * session on the same server) says meanwhile which those are. Rejects with SLOT_BLOCKED after `waitMs`, with SOURCE_SETTINGS where
 * wal_level or the number of slots forbids it. `replication` is of no more use after a rejection.
 */
export async function createSlot(
  replication: pg.Client,
  watcher: pg.Client,
  { name, waitMs, snapshot, temporary = false, failover = false, primary = null, signal }: SlotCreation,
  log: Log,
): Promise<CreatedSlot> {
  const deadline = performance.now() + waitMs;
  let blockers = '';
  let late = false;
  const { processID, connection } = replication as unknown as Internals;
  const cancel = (): Promise<unknown> => watcher.query('SELECT pg_catalog.pg_cancel_backend($1)', [processID]);
  let silent = setTimeout(() => connection.stream.destroy(), waitMs + UNANSWERED_MS);
  const abort = (): void => {
    void cancel().catch(() => {});
    clearTimeout(silent);
    silent = setTimeout(() => connection.stream.destroy(), UNANSWERED_MS);
  };
  signal?.addEventListener('abort', abort, { once: true });
  const watch = setInterval(async () => {
    try {
      // A standby learns from its primary alone what is in progress; without that right it waits for up to a checkpoint.
      if (primary) await primary.query('SELECT pg_catalog.pg_log_standby_snapshot()').catch(() => {});
      blockers = (await blockingTransactions(primary ?? watcher)).map(({ who }) => who).join('; ');
      if (blockers) log.warn({ slot: name, blockers }, 'creating the slot waits for older transactions to end');
      if (performance.now() < deadline || late) return;
      late = true;
      await cancel();
    } catch {
      // The statement below reports what went wrong.
    }
  }, BLOCKERS_INTERVAL_MS);
  try {
    // The options in the form of before 15, which later servers take as well; failover has only the new one.
    const options = failover
      ? `(SNAPSHOT '${snapshot === 'export' ? 'export' : 'nothing'}', FAILOVER)`
      : snapshot === 'export'
        ? 'EXPORT_SNAPSHOT'
        : 'NOEXPORT_SNAPSHOT';
    const { rows } = await replication.query<{ consistent_point: string; snapshot_name: string | null }>(
      `CREATE_REPLICATION_SLOT "${name}" ${temporary ? 'TEMPORARY ' : ''}LOGICAL pgoutput ${options}`,
    );
    return { consistentPoint: parseLsn(rows[0]!.consistent_point), snapshotName: rows[0]!.snapshot_name };
  } catch (error) {
    signal?.throwIfAborted();
    if (late)
      throw new WaltideError(
        'SLOT_BLOCKED',
        `slot "${name}" could not be created within ${Math.round(waitMs / 1000)} s: older transactions are still open (${blockers || 'none seen any more'})`,
        'End those transactions (SELECT pg_terminate_backend(pid)), or raise source.slotCreateWaitMs.',
        { cause: error },
      );
    throw creationError(error, name);
  } finally {
    clearInterval(watch);
    clearTimeout(silent);
    signal?.removeEventListener('abort', abort);
  }
}

function creationError(error: unknown, name: string): WaltideError {
  const remedies: Record<string, string> = {
    '53400': 'Drop an unused slot (`waltide slot list`), or raise max_replication_slots and restart the server.',
    '55000': 'Set wal_level = logical and restart the server.',
  };
  const remedy = remedies[sqlState(error) ?? ''];
  if (remedy === undefined) return queryError(error, `creating slot "${name}"`);
  const message = `slot "${name}" cannot be created: ${messageOf(error)}`;
  return new WaltideError('SOURCE_SETTINGS', message, remedy, { cause: error });
}

export interface BlockingTransaction {
  /** In words, with pid and age. */
  readonly who: string;
  /** Null for a prepared transaction, which has a gid instead. */
  readonly pid: number | null;
  readonly gid: string | null;
}

/** Transactions with an assigned xid that are open for this long, and prepared ones: what a new slot must outwait. */
export async function blockingTransactions(client: pg.Client, olderThanS = 0): Promise<BlockingTransaction[]> {
  const { rows } = await client.query<BlockingTransaction>(
    `SELECT format('pid %s, %s, open for %s s', pid, COALESCE(NULLIF(application_name, ''), usename), extract(epoch FROM now() - xact_start)::int) AS who, pid, NULL AS gid
     FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid() AND xact_start <= now() - make_interval(secs => $1)
     UNION ALL SELECT format('prepared transaction %L of %s', gid, prepared::timestamp(0)), NULL, gid FROM pg_catalog.pg_prepared_xacts LIMIT 10`,
    [olderThanS],
  );
  return rows;
}
