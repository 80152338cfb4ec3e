import type pg from 'pg';
import type { SourceIdentity } from '../event/offset.ts';
import { queryError } from './connection.ts';

/** Who the server is, asked in an ordinary session (IDENTIFY_SYSTEM tells the same in a walsender's). */
export async function identify(client: pg.Client, slot: string): Promise<SourceIdentity> {
  try {
    const { rows } = await client.query<{ system: string; timeline: number; database: string }>(
      `SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system,
              (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()) AS timeline, pg_catalog.current_database() AS database`,
    );
    const row = rows[0]!;
    return { systemIdentifier: row.system, timeline: row.timeline, slot, database: row.database };
  } catch (error) {
    throw queryError(error, 'reading the system identifier');
  }
}
