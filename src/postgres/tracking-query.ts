import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { isMissing, queryError } from './connection.ts';

/** A statement on the tables of tracking; rejects as `queryError` says, and with SOURCE_SETTINGS where they are not there yet. */
export async function trackingQuery<T extends object = object>(
  client: pg.Client,
  sql: string,
  values: unknown[] = [],
): Promise<T[]> {
  try {
    return (await client.query<T>(sql, values)).rows;
  } catch (error) {
    if (isMissing(error))
      throw new WaltideError(
        'SOURCE_SETTINGS',
        'schema "waltide" of the source has no tables for runs yet',
        'Run `waltide setup` with this version first.',
        { cause: error },
      );
    throw queryError(error, 'the history of runs');
  }
}

/** What a sync type's advisory lock goes by; `text` is SQL. */
export function syncTypeKey(text: string): string {
  return `pg_catalog.hashtextextended('waltide sync type ' || ${text}, 0)`;
}

/** What an instance's advisory lock goes by; `text` is SQL. */
export function instanceKey(text: string): string {
  return `pg_catalog.hashtextextended('waltide instance ' || ${text}, 0)`;
}
