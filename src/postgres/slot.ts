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
  /** Lives no longer than the session that made it. */
  readonly temporary: boolean;
  /** Why the slot can never be used again: wal_removed, rows_removed, wal_level_insufficient or idle_timeout; null where it can. */
  readonly invalidation: string | null;
  /** Since when no process has used it; null while one does, and before PostgreSQL 17. */
  readonly inactiveSince: Date | null;
  /** Standbys keep a copy of it in step; false before PostgreSQL 17. */
  readonly failover: boolean;
  /** On a standby (or one that was promoted): it is such a copy. */
  readonly synced: boolean;
  readonly retainedBytes: number | null;
  readonly safeWalBytes: number | null;
}

const SLOTS = `
SELECT slot_name AS name, plugin, database, active, active_pid AS pid, confirmed_flush_lsn::text AS confirmed, restart_lsn::text AS restart,
       wal_status AS status, safe_wal_size::float8 AS safe, temporary,
       -- By way of JSON, since a server knows only the columns of its version: conflicting is of 16, the others of 17.
       COALESCE(pg_catalog.to_jsonb(s) ->> 'invalidation_reason',
                CASE WHEN wal_status = 'lost' THEN 'wal_removed' WHEN (pg_catalog.to_jsonb(s) ->> 'conflicting')::bool THEN 'rows_removed' END) AS invalidation,
       (pg_catalog.to_jsonb(s) ->> 'inactive_since')::timestamptz AS inactive,
       COALESCE((pg_catalog.to_jsonb(s) ->> 'failover')::bool, false) AS failover,
       COALESCE((pg_catalog.to_jsonb(s) ->> 'synced')::bool, false) AS synced,
       pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)::float8 AS retained
FROM pg_catalog.pg_replication_slots s
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
  temporary: boolean;
  invalidation: string | null;
  inactive: Date | null;
  failover: boolean;
  synced: boolean;
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
      temporary: row.temporary,
      invalidation: row.invalidation,
      inactiveSince: row.inactive,
      failover: row.failover,
      synced: row.synced,
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

/** Throws SLOT_FOREIGN where the slot belongs to something else: it may then not even be dropped on request. */
export function checkOwner(slot: SlotInfo, database: string): void {
  if (slot.plugin !== 'pgoutput')
    throw new WaltideError(
      'SLOT_FOREIGN',
      `slot "${slot.name}" belongs to the plugin ${slot.plugin}, not to pgoutput`,
      'Another program made it. Choose another name in source.slot.',
    );
  if (slot.database !== database)
    throw new WaltideError(
      'SLOT_FOREIGN',
      `slot "${slot.name}" belongs to database "${slot.database}" of this server, not to "${database}"`,
      "A slot's name is unique in the whole server: choose another one in source.slot for this database.",
    );
}

/** There is a slot that this database knows nothing of. */
export function slotForeign(name: string): WaltideError {
  return new WaltideError(
    'SLOT_FOREIGN',
    `slot "${name}" exists, but Waltide has not made it, so nobody knows which rows came before it`,
    'Choose another name in source.slot, or drop that slot with `waltide slot drop` if nothing needs it.',
  );
}

/** What took the slot away, by `invalidation_reason`, and how to keep the next one. */
const INVALIDATIONS: Record<string, readonly [what: string, prevention: string]> = {
  wal_removed: [
    'PostgreSQL has removed WAL that it needed, since it retained more than max_slot_wal_keep_size',
    'To keep the next one: raise max_slot_wal_keep_size, and watch the level of `waltide status`.',
  ],
  idle_timeout: [
    'no process used it for longer than idle_replication_slot_timeout',
    'To keep the next one: leave `waltide run` running, or raise idle_replication_slot_timeout.',
  ],
  rows_removed: [
    'the standby had to remove catalog rows that it needed',
    'To keep the next one: set hot_standby_feedback = on, and give the standby a physical slot on the primary.',
  ],
  wal_level_insufficient: [
    'wal_level of the primary was lowered below logical',
    'Set wal_level = logical again and restart the primary first.',
  ],
};

/** Throws SLOT_FOREIGN or SLOT_LOST where the slot can never serve this pipeline. */
export function checkSlot(slot: SlotInfo, database: string): void {
  checkOwner(slot, database);
  if (slot.invalidation !== null) throw slotLost(slot.name, slot.invalidation);
}

/** `reason` is PostgreSQL's `invalidation_reason`. */
export function slotLost(slot: string, reason: string): WaltideError {
  const [what, prevention] = INVALIDATIONS[reason] ?? [`PostgreSQL has invalidated it (${reason})`, ''];
  return new WaltideError(
    'SLOT_LOST',
    `slot "${slot}" is lost: ${what}; changes are missing for good`,
    `Copy anew with \`waltide run --recopy\`: sinks keep the rows they have until each table is replaced. ${prevention}`.trim(),
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
  const deadline = performance.now() + waitMs;
  for (let told = false; ; told = true) {
    const slot = await readSlot(client, name);
    if (!slot?.active) return;
    if (performance.now() >= deadline)
      throw new WaltideError(
        'SLOT_IN_USE',
        `slot "${name}" is in use by the process with pid ${slot.activePid} on the server (waited ${Math.round(waitMs / 1000)} s)`,
        `Stop the other Waltide, or give this one its own source.slot. To end the connection: SELECT pg_terminate_backend(${slot.activePid}).`,
      );
    if (!told) log.warn({ slot: name, pid: slot.activePid, waitMs }, 'slot is in use; waiting for it to be released');
    await sleep(Math.min(500, waitMs), undefined, { signal });
  }
}

/** How far the server's WAL reaches, and what it may keep for a slot. */
export interface WalUse {
  readonly lsn: Lsn;
  /** max_slot_wal_keep_size; null where it is unlimited. */
  readonly keepBytes: number | null;
}

export async function readWalUse(client: pg.Client): Promise<WalUse> {
  try {
    const { rows } = await client.query<{ lsn: string; keep: number }>(
      `SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END::text AS lsn,
              (SELECT setting::float8 FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep`,
    );
    const { lsn, keep } = rows[0]!;
    return { lsn: parseLsn(lsn), keepBytes: keep < 0 ? null : keep * 1024 * 1024 };
  } catch (error) {
    throw queryError(error, 'reading the WAL position');
  }
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
 * server crash is normal: what comes again is skipped by position. `mark` is where the sink was when last seen.
 */
export function checkOffset(
  sink: string,
  offset: Lsn,
  slot: SlotInfo,
  flushed: Lsn,
  mark?: { lsn: Lsn; at: Date },
): void {
  const restored = mark !== undefined && offset < mark.lsn;
  // Rows of the first copy stand 1 before the slot's beginning, and nothing lies between.
  if (slot.confirmedFlushLsn !== null && slot.confirmedFlushLsn > offset + 1n)
    throw new WaltideError(
      'SLOT_AHEAD',
      `slot "${slot.name}" has been acknowledged up to ${formatLsn(slot.confirmedFlushLsn)}, but "${sink}" stands at ${formatLsn(offset)}: what lies between is gone from the slot`,
      restored
        ? `The sink was at ${formatLsn(mark.lsn)} on ${mark.at.toISOString()}, so it was restored from an older backup. Bring the newer file back, or copy anew with \`waltide run --recopy\`. \`waltide restore --refill\` keeps its rows to be read meanwhile; source.retain keeps WAL for such a case.`
        : 'Someone recreated or advanced the slot, or the sink was restored from an older backup. Copy anew with `waltide run --recopy`.',
    );
  if (offset > flushed)
    throw new WaltideError(
      'CLUSTER_MISMATCH',
      `"${sink}" stands at ${formatLsn(offset)}, beyond the end of the server's WAL at ${formatLsn(flushed)}`,
      'The server was restored from a backup or is a standby that is behind. Point source.url at the right server, or copy anew with `waltide run --recopy`.',
    );
}
