import type pg from 'pg';

/* A session that its process has lost, and that the server may not know to be gone: it keeps its locks. */

/** A host that vanished without a word is noticed by the server within about 25 s: its locks are free again. */
export const KEEPALIVE =
  'SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 25000';

/** Ends the session of server process $1 where it was one for the same purpose as this one, of the same role. */
export const END_LOST_SESSION = `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
  WHERE pid = $1 AND application_name = pg_catalog.current_setting('application_name') AND usename = current_user`;

/** The server process of the session; null where it has none yet. */
export function processIdOf(client: pg.Client): number | null {
  return (client as unknown as { processID?: number | null }).processID ?? null;
}
