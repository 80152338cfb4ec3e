import { readdirSync, readFileSync } from 'node:fs';
import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { formatLsn, type Lsn, parseLsn } from '../event/lsn.ts';
import type { CapturedTable } from './captured.ts';
import { isMissing, queryError, sqlState } from './connection.ts';

/** sql/ lies beside both src/ and dist/. */
const MIGRATIONS = new URL('../../sql/', import.meta.url);
/** Any constant would do; this one spells "waltide" so that it can be recognised in pg_locks. */
const MIGRATION_LOCK = '0x77616c74696465';

export interface SlotRecord {
  readonly state: 'prepared' | 'copying' | 'streaming';
  readonly consistentPoint: Lsn | null;
  readonly tables: readonly CapturedTable[];
}

/**
 * Brings schema `waltide` of the source up to this version. Safe when several processes start at once: they queue on
 * an advisory lock. Rejects with SOURCE_RIGHTS where the role may not create it, with SOURCE_SETTINGS where a newer
 * Waltide has been here.
 */
export async function migrate(client: pg.Client): Promise<void> {
  const files = migrations();
  if ((await controlVersion(client)) === 'current') return;
  try {
    await client.query('BEGIN');
    await client.query(`SELECT pg_catalog.pg_advisory_xact_lock(${BigInt(MIGRATION_LOCK)})`);
    // IF NOT EXISTS would ask for the right to create it even where it is there, made by an administrator.
    const { rowCount } = await client.query("SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'waltide'");
    if (rowCount === 0) await client.query('CREATE SCHEMA waltide');
    await client.query(
      'CREATE TABLE IF NOT EXISTS waltide.migrations (version int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())',
    );
    const { rows } = await client.query<{ version: number }>('SELECT version FROM waltide.migrations');
    const done = new Set(rows.map((row) => row.version));
    for (const file of files) {
      const version = versionOf(file);
      if (done.has(version)) continue;
      await client.query(readFileSync(new URL(file, MIGRATIONS), 'utf8'));
      await client.query('INSERT INTO waltide.migrations (version, name) VALUES ($1, $2)', [version, file]);
    }
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {});
    if (sqlState(error) === '42501')
      throw new WaltideError(
        'SOURCE_RIGHTS',
        `schema "waltide" cannot be created: ${(error as Error).message}`,
        'Let an administrator run the SQL that `waltide setup --grants` prints: it makes the schema for this role.',
        { cause: error },
      );
    throw queryError(error, 'creating schema "waltide"');
  }
}

/** How schema `waltide` of the source stands to this version. Rejects with SOURCE_SETTINGS where a newer Waltide has been here. */
export async function controlVersion(client: pg.Client): Promise<'absent' | 'older' | 'current'> {
  const versions = migrations().map(versionOf);
  const installed = await installedVersions(client);
  const foreign = installed.filter((version) => !versions.includes(version));
  if (foreign.length > 0)
    throw new WaltideError(
      'SOURCE_SETTINGS',
      `schema "waltide" is at version ${Math.max(...foreign)}, this Waltide knows ${versions.at(-1)}`,
      'Use the newer Waltide that made it; going back is not possible.',
    );
  if (installed.length === 0) return 'absent';
  return installed.length === versions.length ? 'current' : 'older';
}

function migrations(): string[] {
  return readdirSync(MIGRATIONS)
    .filter((file) => /^\d{6}_.*\.sql$/.test(file))
    .sort();
}

/** Numbers are reserved while they are worked on, so they may come in any order. */
function versionOf(file: string): number {
  return Number(file.slice(0, 6));
}

async function installedVersions(client: pg.Client): Promise<number[]> {
  try {
    const { rows } = await client.query<{ version: number }>('SELECT version FROM waltide.migrations');
    return rows.map(({ version }) => version);
  } catch (error) {
    if (isMissing(error)) return [];
    throw queryError(error, 'reading schema "waltide"');
  }
}

/** What is recorded of a slot; null where Waltide has never made it, or has no schema here yet. */
export async function readSlotRecord(client: pg.Client, slot: string): Promise<SlotRecord | null> {
  try {
    const { rows } = await client.query<{
      state: SlotRecord['state'];
      point: string | null;
      tables: Partial<CapturedTable>[];
    }>('SELECT state, consistent_point::text AS point, tables FROM waltide.slots WHERE slot_name = $1', [slot]);
    const row = rows[0];
    if (!row) return null;
    // Waltide 0.1 recorded no more than what was copied.
    const tables = row.tables.map(
      (table) => ({ filled: true, membership: null, leftLsn: null, ...table }) as CapturedTable,
    );
    return { state: row.state, consistentPoint: row.point === null ? null : parseLsn(row.point), tables };
  } catch (error) {
    if (isMissing(error)) return null;
    throw queryError(error, 'reading waltide.slots');
  }
}

/** Before a slot is made that nothing is read through yet. */
export async function markPrepared(client: pg.Client, slot: string): Promise<void> {
  await run(
    client,
    `INSERT INTO waltide.slots (slot_name, state) VALUES ($1, 'prepared')
    ON CONFLICT (slot_name) DO UPDATE SET state = 'prepared' WHERE slots.state = 'prepared'`,
    [slot],
  );
}

/** Before a slot is made. */
export async function markCopying(client: pg.Client, slot: string): Promise<void> {
  await run(
    client,
    `INSERT INTO waltide.slots (slot_name, state) VALUES ($1, 'copying')
    ON CONFLICT (slot_name) DO UPDATE SET state = 'copying', consistent_point = NULL, tables = '[]', created_at = now(), copied_at = NULL`,
    [slot],
  );
}

/** The slot has been made: its first copy may begin. */
export async function markCreated(client: pg.Client, slot: string, consistentPoint: Lsn): Promise<void> {
  await run(client, 'UPDATE waltide.slots SET consistent_point = $2 WHERE slot_name = $1', [
    slot,
    formatLsn(consistentPoint),
  ]);
}

/** The first copy is over: from here on a missing slot means missing changes. */
export async function markStreaming(client: pg.Client, slot: string): Promise<void> {
  await run(
    client,
    `UPDATE waltide.slots SET state = 'streaming', copied_at = COALESCE(copied_at, now()) WHERE slot_name = $1 AND state <> 'streaming'`,
    [slot],
  );
}

/** What is captured, and which of it is filled. */
export async function saveTables(client: pg.Client, slot: string, tables: readonly CapturedTable[]): Promise<void> {
  await run(client, 'UPDATE waltide.slots SET tables = $2 WHERE slot_name = $1', [slot, JSON.stringify(tables)]);
}

export async function forgetSlot(client: pg.Client, slot: string): Promise<void> {
  await run(client, 'DELETE FROM waltide.slots WHERE slot_name = $1', [slot]);
}

async function run(client: pg.Client, sql: string, values: unknown[]): Promise<void> {
  try {
    await client.query(sql, values);
  } catch (error) {
    throw queryError(error, 'writing waltide.slots');
  }
}

/** All of this database, by name; none where Waltide has no schema here. */
export async function listSlotRecords(client: pg.Client): Promise<Map<string, SlotRecord>> {
  const records = new Map<string, SlotRecord>();
  try {
    const { rows } = await client.query<{ name: string }>(
      'SELECT slot_name AS name FROM waltide.slots ORDER BY slot_name',
    );
    for (const { name } of rows) {
      const record = await readSlotRecord(client, name);
      if (record) records.set(name, record);
    }
    return records;
  } catch (error) {
    // No schema of ours, or none that we may read: nothing of ours is known here.
    if (isMissing(error) || sqlState(error) === '42501') return records;
    throw queryError(error, 'reading waltide.slots');
  }
}
