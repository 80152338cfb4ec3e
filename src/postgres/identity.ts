import type pg from 'pg';
import type { SourceIdentity } from '../event/offset.ts';
import { queryError } from './connection.ts';

/**
 * Who the server is, asked in an ordinary session. The control file knows of a new timeline only after the next
 * checkpoint; the name of the WAL file that is written now knows at once.
 */
const IDENTITY = `
SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system, pg_catalog.current_database() AS database,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())
            ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline`;

export async function identify(client: pg.Client, slot: string): Promise<SourceIdentity> {
  try {
    const { rows } = await client.query<{ system: string; timeline: number; database: string }>(IDENTITY);
    const row = rows[0]!;
    return { systemIdentifier: row.system, timeline: row.timeline, slot, database: row.database };
  } catch (error) {
    throw queryError(error, 'reading the system identifier');
  }
}

/** The identity with its ancestors, which only a walsender's session tells; `open` is not called on the first timeline. */
export async function withAncestors(identity: SourceIdentity, open: () => Promise<pg.Client>): Promise<SourceIdentity> {
  if (identity.timeline === 1) return identity;
  const replication = await open();
  try {
    const { rows } = await replication.query<{ content: Buffer | string }>(`TIMELINE_HISTORY ${identity.timeline}`);
    return { ...identity, ancestors: parseHistory(rows[0]!.content.toString()) };
  } catch (error) {
    throw queryError(error, `reading the history of timeline ${identity.timeline}`);
  } finally {
    await replication.end().catch(() => {});
  }
}

/** A timeline history file: `timeline <tab> LSN where it ended <tab> reason`, and comments (PostgreSQL manual, "Timelines"). */
export function parseHistory(text: string): { timeline: number; end: string }[] {
  return [...text.matchAll(/^\s*(\d+)\s+([0-9A-F]+\/[0-9A-F]+)/gim)].map(([, timeline, end]) => ({
    timeline: Number(timeline),
    end: end!,
  }));
}
