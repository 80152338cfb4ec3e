import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { PINNED, queryError } from './connection.ts';

/** pgoutput's `messages` option, which the heartbeat needs, came with 14. */
export const OLDEST_VERSION = 140000;

export interface ServerInfo {
  /** server_version_num: 180004 is 18.4. */
  readonly version: number;
  readonly walLevel: string;
  readonly inRecovery: boolean;
  readonly canReplicate: boolean;
  readonly slotsMax: number;
  readonly slotsUsed: number;
  readonly sendersMax: number;
  readonly sendersUsed: number;
}

export async function readServer(client: pg.Client): Promise<ServerInfo> {
  try {
    const { rows } = await client.query<ServerInfo>(`
      SELECT current_setting('server_version_num')::int AS version, current_setting('wal_level') AS "walLevel",
             pg_catalog.pg_is_in_recovery() AS "inRecovery",
             (SELECT rolsuper OR rolreplication FROM pg_catalog.pg_roles WHERE rolname = current_user)
               OR EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'rds_replication' AND pg_catalog.pg_has_role(oid, 'MEMBER')) AS "canReplicate",
             current_setting('max_replication_slots')::int AS "slotsMax",
             (SELECT count(*)::int FROM pg_catalog.pg_replication_slots) AS "slotsUsed",
             current_setting('max_wal_senders')::int AS "sendersMax",
             (SELECT count(*)::int FROM pg_catalog.pg_stat_activity WHERE backend_type = 'walsender') AS "sendersUsed"`);
    return rows[0]!;
  } catch (error) {
    throw queryError(error, 'reading the server settings');
  }
}

/** Throws where logical replication cannot work on this server or for this role. */
export function checkServer(server: ServerInfo): void {
  if (server.version < OLDEST_VERSION)
    throw new WaltideError(
      'SOURCE_SETTINGS',
      `PostgreSQL ${Math.floor(server.version / 10000)} is too old`,
      'Waltide needs PostgreSQL 14 or newer.',
    );
  if (server.walLevel !== 'logical')
    throw new WaltideError(
      'SOURCE_SETTINGS',
      `wal_level is ${server.walLevel}, so the WAL does not hold what changed`,
      "Run ALTER SYSTEM SET wal_level = 'logical' and restart PostgreSQL (on RDS: rds.logical_replication = 1).",
    );
  if (!server.canReplicate)
    throw new WaltideError(
      'SOURCE_RIGHTS',
      'this role may not use replication',
      'Run ALTER ROLE … REPLICATION for this user (on RDS: GRANT rds_replication TO …).',
    );
}

/** Settings that decide how values look and were asked for at login, but are not in force: a pooler drops them. */
export async function lostSettings(client: pg.Client): Promise<string[]> {
  // Timeouts say nothing of values, and whoever connects may change them.
  const pinned = Object.entries(PINNED).filter(([name]) => !name.endsWith('_timeout'));
  const { rows } = await client
    .query<{ name: string; setting: string }>(
      'SELECT lower(name) AS name, setting FROM pg_catalog.pg_settings WHERE lower(name) = ANY($1)',
      [pinned.map(([name]) => name.toLowerCase())],
    )
    .catch((error: unknown) => {
      throw queryError(error, 'reading the session settings');
    });
  const plain = (text: string | undefined): string => (text ?? '').replaceAll(' ', '').toLowerCase();
  const found = new Map(rows.map(({ name, setting }) => [name, setting]));
  return pinned.filter(([name, value]) => plain(found.get(name.toLowerCase())) !== plain(value)).map(([name]) => name);
}

/** Throws where something between us and the server drops the session settings: values would look different. */
export async function checkSettings(client: pg.Client): Promise<void> {
  const lost = await lostSettings(client);
  if (lost.length === 0) return;
  throw new WaltideError(
    'SOURCE_SETTINGS',
    `settings asked for at login do not arrive at the server: ${lost.join(', ')}`,
    'A pooler such as PgBouncer drops them (ignore_startup_parameters). Point source.url at PostgreSQL itself.',
  );
}
