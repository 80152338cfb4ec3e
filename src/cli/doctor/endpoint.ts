import type pg from 'pg';
import { type Reached, reached, SEVERAL_SERVERS_REMEDY, severalServers } from '../../postgres/endpoint.ts';
import { lostSettings } from '../../postgres/server.ts';
import { slotSide, withSession } from '../../postgres/session.ts';
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

async function oneServer({ config: { source } }: DatabaseSubject): ReturnType<Check<DatabaseSubject>['run']> {
  const servers: Reached[] = [];
  for (let i = 0; i < CONNECTIONS; i++) servers.push(await withSession(slotSide(source), 'doctor', reached));
  const several = severalServers(servers);
  if (!several) return ok(`${CONNECTIONS} connections reach the same server`);
  return several.fatal
    ? fail(`connections reach ${several.what}`, SEVERAL_SERVERS_REMEDY)
    : warn(`connections reach ${several.what}, or it was restarted just now`, SEVERAL_SERVERS_REMEDY);
}
