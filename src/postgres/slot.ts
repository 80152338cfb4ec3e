import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { messageOf, WaltideError } from '../errors.ts';
import { formatLsn, type Lsn, parseLsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import { queryError, sqlState } from './connection.ts';

/** A row of pg_replication_slots. */
export interface SlotInfo {
  readonly name: string;
  readonly plugin: string | null;
  readonly database: string | null;
  readonly active: boolean;
  readonly activePid: number | null;
  /** Null for a slot that is still being created. */
  readonly confirmedFlushLsn: Lsn | null;
  readonly restartLsn: Lsn | null;
  /** reserved, extended, unreserved or lost (`wal_status`). */
  readonly walStatus: string | null;
  readonly retainedBytes: number | null;
  readonly safeWalBytes: number | null;
}

const SLOTS = `
SELECT slot_name AS name, plugin, database, active, active_pid AS pid, confirmed_flush_lsn::text AS confirmed, restart_lsn::text AS restart,
       wal_status AS status, safe_wal_size::float8 AS safe,
       pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)::float8 AS retained
FROM pg_catalog.pg_replication_slots
WHERE slot_type = 'logical' AND ($1::text IS NULL OR slot_name = $1) ORDER BY slot_name`;

interface SlotRow {
  name: string;
  plugin: string | null;
  database: string | null;
  active: boolean;
  pid: number | null;
  confirmed: string | null;
  restart: string | null;
  status: string | null;
  safe: number | null;
  retained: number | null;
}

async function select(client: pg.Client, slot: string | null): Promise<SlotInfo[]> {
  try {
    const { rows } = await client.query<SlotRow>(SLOTS, [slot]);
    return rows.map((row) => ({
      name: row.name,
      plugin: row.plugin,
      database: row.database,
      active: row.active,
      activePid: row.pid,
      confirmedFlushLsn: row.confirmed === null ? null : parseLsn(row.confirmed),
      restartLsn: row.restart === null ? null : parseLsn(row.restart),
      walStatus: row.status,
      retainedBytes: row.retained,
      safeWalBytes: row.safe,
    }));
  } catch (error) {
    throw queryError(error, 'reading pg_replication_slots');
  }
}

/** All logical slots of the server. */
export async function listSlots(client: pg.Client): Promise<SlotInfo[]> {
  return select(client, null);
}

/** Null where there is none of that name. */
export async function readSlot(client: pg.Client, slot: string): Promise<SlotInfo | null> {
  return (await select(client, slot))[0] ?? null;
}

/** Throws SLOT_FOREIGN or SLOT_LOST where the slot can never serve this pipeline. */
export function checkSlot(slot: SlotInfo, database: string): void {
  if (slot.plugin !== 'pgoutput' || slot.database !== database)
    throw new WaltideError(
      'SLOT_FOREIGN',
      `slot "${slot.name}" belongs to plugin ${slot.plugin} and database "${slot.database}", not to pgoutput and "${database}"`,
      'Choose another name in source.slot.',
    );
  if (slot.walStatus === 'lost')
    throw new WaltideError(
      'SLOT_LOST',
      `slot "${slot.name}" is lost: PostgreSQL has removed WAL that it needed (max_slot_wal_keep_size, or the slot was invalidated)`,
      'Changes are missing for good, so the copy must be made anew: `waltide run --recopy`. Raise max_slot_wal_keep_size if it happens again.',
    );
}

/**
 * Resolves once no process uses the slot. A killed process keeps it active until its connection times out, hence the
 * patience; after `waitMs` rejects with SLOT_IN_USE naming the pid.
 */
export async function waitUntilReleased(
  client: pg.Client,
  name: string,
  waitMs: number,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  const deadline = Date.now() + waitMs;
  for (let told = false; ; told = true) {
    const slot = await readSlot(client, name);
    if (!slot?.active) return;
    if (Date.now() >= deadline)
      throw new WaltideError(
        'SLOT_IN_USE',
        `slot "${name}" is in use by the process with pid ${slot.activePid} on the server (waited ${Math.round(waitMs / 1000)} s)`,
        `Stop the other Waltide, or give this one its own source.slot. To end the connection: SELECT pg_terminate_backend(${slot.activePid}).`,
      );
    if (!told) log.warn({ slot: name, pid: slot.activePid, waitMs }, 'slot is in use; waiting for it to be released');
    await sleep(Math.min(500, waitMs), undefined, { signal });
  }
}

export interface CreatedSlot {
  readonly consistentPoint: Lsn;
  /** For SET TRANSACTION SNAPSHOT; lives as long as the walsender session runs no other command. */
  readonly snapshotName: string;
}

/**
 * Makes the slot and exports its snapshot. PostgreSQL first waits for every transaction older than the slot to end;
 * `watcher` (an ordinary session) says meanwhile which pids those are. After `waitMs` rejects with SLOT_BLOCKED.
 */
export async function createSlot(
  replication: pg.Client,
  watcher: pg.Client,
  name: string,
  waitMs: number,
  log: Log,
): Promise<CreatedSlot> {
  const deadline = Date.now() + waitMs;
  let blockers = '';
  let timedOut = false;
  const watch = setInterval(async () => {
    try {
      blockers = await blockingTransactions(watcher);
      if (blockers) log.warn({ slot: name, blockers }, 'creating the slot waits for older transactions to end');
      if (Date.now() < deadline || timedOut) return;
      timedOut = true;
      // The watcher may cancel what belongs to the same role; failing that, hanging up does.
      await watcher.query('SELECT pg_catalog.pg_cancel_backend($1)', [
        (replication as unknown as { processID: number }).processID,
      ]);
    } catch {
      // The statement below reports what went wrong.
    }
  }, 2000);
  try {
    const { rows } = await replication.query<{ consistent_point: string; snapshot_name: string }>(
      `CREATE_REPLICATION_SLOT "${name}" LOGICAL pgoutput EXPORT_SNAPSHOT`,
    );
    return { consistentPoint: parseLsn(rows[0]!.consistent_point), snapshotName: rows[0]!.snapshot_name };
  } catch (error) {
    if (timedOut)
      throw new WaltideError(
        'SLOT_BLOCKED',
        `slot "${name}" could not be created within ${Math.round(waitMs / 1000)} s: older transactions are still open (${blockers || 'none seen any more'})`,
        'End those transactions (SELECT pg_terminate_backend(pid)), or raise source.slotCreateWaitMs.',
        { cause: error },
      );
    throw createError(error, name);
  } finally {
    clearInterval(watch);
  }
}

function createError(error: unknown, name: string): WaltideError {
  const options = { cause: error };
  if (sqlState(error) === '53400')
    return new WaltideError(
      'SOURCE_SETTINGS',
      `slot "${name}" cannot be created: ${messageOf(error)}`,
      'Drop an unused slot (`waltide slot list`), or raise max_replication_slots and restart the server.',
      options,
    );
  if (sqlState(error) === '55000')
    return new WaltideError(
      'SOURCE_SETTINGS',
      `slot "${name}" cannot be created: ${messageOf(error)}`,
      'Set wal_level = logical and restart the server.',
      options,
    );
  return queryError(error, `creating slot "${name}"`);
}

/** Transactions with an assigned xid (or prepared ones): what a new slot must outwait. */
async function blockingTransactions(client: pg.Client): Promise<string> {
  const { rows } = await client.query<{ who: string }>(`
    SELECT format('pid %s, %s, open for %s s', pid, COALESCE(NULLIF(application_name, ''), usename), extract(epoch FROM now() - xact_start)::int) AS who
    FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
    UNION ALL SELECT format('prepared transaction %L', gid) FROM pg_catalog.pg_prepared_xacts LIMIT 10`);
  return rows.map((row) => row.who).join('; ');
}

/** No error where it is not there. Rejects with SLOT_IN_USE where a process still uses it. */
export async function dropSlot(client: pg.Client, name: string): Promise<boolean> {
  try {
    const { rowCount } = await client.query(
      'SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1',
      [name],
    );
    return (rowCount ?? 0) > 0;
  } catch (error) {
    if (sqlState(error) === '55006')
      throw new WaltideError('SLOT_IN_USE', messageOf(error), 'Stop the process that uses the slot first.', {
        cause: error,
      });
    throw queryError(error, `dropping slot "${name}"`);
  }
}

/** How far the server's WAL reaches. `inserted` may not be flushed yet. */
export async function walPosition(client: pg.Client): Promise<{ inserted: Lsn; flushed: Lsn }> {
  try {
    const { rows } = await client.query<{ inserted: string; flushed: string }>(
      `SELECT CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END::text AS inserted,
              CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END::text AS flushed
       FROM pg_catalog.pg_is_in_recovery() r`,
    );
    return { inserted: parseLsn(rows[0]!.inserted), flushed: parseLsn(rows[0]!.flushed) };
  } catch (error) {
    throw queryError(error, 'reading the WAL position');
  }
}

/**
 * Throws where a sink that stands at `offset` cannot go on from this slot. A slot that went back a little after a
 * server crash is normal: what comes again is skipped by position.
 */
export function checkOffset(sink: string, offset: Lsn, slot: SlotInfo, flushed: Lsn): void {
  if (slot.confirmedFlushLsn !== null && slot.confirmedFlushLsn > offset)
    throw new WaltideError(
      'SLOT_AHEAD',
      `slot "${slot.name}" has been acknowledged up to ${formatLsn(slot.confirmedFlushLsn)}, but "${sink}" stands at ${formatLsn(offset)}: what lies between is gone from the slot`,
      'Someone recreated or advanced the slot, or the sink was restored from an older backup. Copy anew with `waltide run --recopy`.',
    );
  if (offset > flushed)
    throw new WaltideError(
      'CLUSTER_MISMATCH',
      `"${sink}" stands at ${formatLsn(offset)}, beyond the end of the server's WAL at ${formatLsn(flushed)}`,
      'The server was restored from a backup or is a standby that is behind. Point source.url at the right server, or copy anew with `waltide run --recopy`.',
    );
}
