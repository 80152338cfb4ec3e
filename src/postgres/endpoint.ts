import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { queryError } from './connection.ts';
import { slotSide, withSession } from './session.ts';

/** Logical decoding on a standby came with 16. */
const STANDBY_VERSION = 160_000;
/** Connections that are opened at a start beside the first: a balancer of two servers that shares out evenly is missed once in 8 times. */
const CONNECTIONS = 3;

export interface Reached {
  readonly system: string;
  /** When it started: two servers of one cluster never started in the same microsecond. */
  readonly started: string;
  readonly standby: boolean;
  readonly version: number;
}

export async function reached(client: pg.Client): Promise<Reached> {
  try {
    const { rows } = await client.query<Reached>(
      `SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system,
              pg_catalog.pg_postmaster_start_time()::text AS started, pg_catalog.pg_is_in_recovery() AS standby,
              pg_catalog.current_setting('server_version_num')::int AS version`,
    );
    return rows[0]!;
  } catch (error) {
    throw queryError(error, 'asking a server what it is');
  }
}

/** What several connections to one endpoint reach, in words; null where it is one server, as it must be. */
export function severalServers(servers: readonly Reached[]): { readonly what: string; readonly fatal: boolean } | null {
  const each = new Map(servers.map((server) => [`${server.system} ${server.started}`, server]));
  if (each.size <= 1) return null;
  const clusters = new Set(servers.map(({ system }) => system)).size;
  const standbys = [...each.values()].filter(({ standby }) => standby).length;
  const what =
    clusters > 1
      ? `${clusters} different clusters`
      : `${each.size} servers of one cluster, ${standbys} of them standbys`;
  // A server that was restarted meanwhile looks like two.
  return { what, fatal: clusters > 1 || standbys > 0 };
}

export const SEVERAL_SERVERS_REMEDY =
  'Point source.url at one server, not at a load balancer: a slot belongs to a server, and a copy from a standby that is behind lacks rows. Several hosts go into the URL itself, with target_session_attrs=read-write.';

/**
 * Throws where the slot could not be where it is looked for: `slot` and `control` are sessions of the server that has the
 * slot and of the primary.
 */
export async function checkEndpoint(source: SourceConfig, slot: pg.Client, control: pg.Client): Promise<void> {
  const here = await reached(slot);
  const primary = await reached(control);
  checkRoles(source, here, primary);
  const others = await Promise.all(
    Array.from({ length: CONNECTIONS }, () => withSession(slotSide(source), 'control', reached)),
  );
  const several = severalServers([here, ...others]);
  if (several?.fatal)
    throw new WaltideError(
      'SOURCE_SETTINGS',
      `connections to source.url reach ${several.what}`,
      SEVERAL_SERVERS_REMEDY,
    );
}

/** Throws where the two servers cannot play these parts. */
export function checkRoles(source: SourceConfig, here: Reached, primary: Reached): void {
  const refuse = (message: string, help: string): never => {
    throw new WaltideError('SOURCE_SETTINGS', message, help);
  };
  if (source.primaryUrl === undefined) {
    if (here.standby)
      refuse(
        'source.url is a standby, which takes no writes',
        'Point source.url at the primary; to decode on this standby (PostgreSQL 16 and later), set source.primaryUrl as well.',
      );
    return;
  }
  if (here.system !== primary.system)
    refuse(
      `source.url is of cluster ${here.system}, source.primaryUrl of cluster ${primary.system}`,
      'Both must be servers of one cluster: a primary, and its standby.',
    );
  if (primary.standby) refuse('source.primaryUrl is a standby', 'Point it at the primary.');
  if (!here.standby && here.started !== primary.started)
    refuse(
      'source.url is no standby of source.primaryUrl any more: it was promoted',
      'Remove source.primaryUrl: the slot lives on in source.url, which is the primary now.',
    );
  if (here.standby && here.version < STANDBY_VERSION)
    refuse(
      `PostgreSQL ${Math.floor(here.version / 10_000)} cannot decode on a standby`,
      'It takes PostgreSQL 16 or later. Point source.url at the primary, and remove source.primaryUrl.',
    );
  if (here.standby && source.failover)
    refuse('source.failover is not possible for a slot on a standby', 'Remove source.failover or source.primaryUrl.');
}
