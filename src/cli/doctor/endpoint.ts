import type pg from 'pg';
import { lostSettings } from '../../postgres/server.ts';
import { withSession } from '../../postgres/session.ts';
import { type Check, type DatabaseSubject, fail, ok, warn } from './check.ts';

/** A balancer that shares out two servers evenly is missed once in 64 times. */
const CONNECTIONS = 6;

/** What stands between us and the server. */
export const ENDPOINT_CHECKS: readonly Check<DatabaseSubject>[] = [
  {
    name: 'direct connection',
    run: async ({ client }) => {
      const first = await backend(client);
      // A pooler makes up the key data it gives to its clients, and may give each statement to another session.
      const stays = first === (await backend(client));
      if (stays && first === (client as unknown as { processID: number }).processID) return ok('no pooler in between');
      return fail(
        stays
          ? 'a pooler such as PgBouncer stands between'
          : 'a pooler stands between, and gives each statement to another session',
        'Point source.url at PostgreSQL itself: replication and exported snapshots need one server session each.',
      );
    },
  },
  {
    name: 'session settings',
    run: async ({ client }) => {
      const lost = await lostSettings(client);
      if (lost.length === 0) return ok('those that decide how a value looks are in force');
      return fail(
        `do not arrive: ${lost.join(', ')}`,
        'Something between drops what is asked for at login (PgBouncer: ignore_startup_parameters), so values would look different. Point source.url at PostgreSQL itself.',
      );
    },
  },
  { name: 'one server', run: oneServer },
];

async function backend(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ pid: number }>('SELECT pg_catalog.pg_backend_pid() AS pid');
  return rows[0]!.pid;
}

interface Server {
  readonly system: string;
  /** When it started: two servers of one cluster never started in the same microsecond. */
  readonly started: string;
  readonly standby: boolean;
}

async function oneServer({ config: { source } }: DatabaseSubject): ReturnType<Check<DatabaseSubject>['run']> {
  const seen = new Map<string, Server>();
  for (let i = 0; i < CONNECTIONS; i++) {
    await withSession(source, 'doctor', async (client) => {
      const { rows } = await client.query<Server>(
        `SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system,
                pg_catalog.pg_postmaster_start_time()::text AS started, pg_catalog.pg_is_in_recovery() AS standby`,
      );
      seen.set(`${rows[0]!.system} ${rows[0]!.started}`, rows[0]!);
    });
  }
  const servers = [...seen.values()];
  if (servers.length === 1) return ok(`${CONNECTIONS} connections reach the same server`);
  const clusters = new Set(servers.map(({ system }) => system)).size;
  const what =
    clusters > 1
      ? `${clusters} different clusters`
      : `${servers.length} servers of one cluster, ${servers.filter(({ standby }) => standby).length} of them standbys`;
  const remedy =
    'Point source.url at one server, not at a load balancer: a slot belongs to a server, and a copy from a standby that is behind lacks rows. Several hosts go into the URL itself, with target_session_attrs=read-write.';
  // A server that was restarted meanwhile looks like two.
  return clusters === 1 && servers.every(({ standby }) => !standby)
    ? warn(`connections reach ${what}, or it was restarted just now`, remedy)
    : fail(`connections reach ${what}`, remedy);
}
