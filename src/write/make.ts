import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { quoteInexact } from '../event/exact-json.ts';
import { queryError, sqlState } from '../postgres/connection.ts';
import type { JsonRow, OperationType } from './operation.ts';
import type { WriteSession } from './sessions.ts';
import type { Statement } from './statement.ts';
import type { Target } from './target.ts';

/** SQLSTATEs, or their first two characters: PostgreSQL does not take what was to be written, and never will. */
const REJECTED = ['22', '23', '44', 'P0', '42804', '428C9', '0A000'];
/** Another transaction stood in the way, or changed the table since it was looked at. */
const IN_THE_WAY = ['40001', '40P01', '55P03', '57014', '42703', '42P01'];

/**
 * Writes one row, inside a transaction, which from then on has the role's own search_path: what triggers do finds what it
 * finds elsewhere.
 * Resolves with the row's key, null for a table without one. Rejects with WRITE_REJECTED, with NOT_FOUND where there is no such
 * row, with SOURCE_BUSY where trying again may help.
 */
export async function make(
  { client, ownSearchPath }: WriteSession,
  type: OperationType,
  target: Target,
  { text, values }: Statement,
): Promise<JsonRow | null> {
  try {
    await setSearchPath(client, ownSearchPath);
    const { rows } = await client.query<{ key: string }>(text, [...values]);
    const [row] = rows;
    if (!row) throw notWritten(type, target);
    // A key beyond 2^53 is answered as text.
    return target.key.length === 0 ? null : (JSON.parse(quoteInexact(row.key)) as JsonRow);
  } catch (error) {
    throw writeError(error, type, target);
  }
}

/** Until the transaction ends. */
export async function setSearchPath(client: pg.Client, to: string): Promise<void> {
  await client.query(`SELECT pg_catalog.set_config('search_path', $1, true)`, [to]);
}

/** What a query of a write may throw, for whoever asked for it. */
export function writeError(error: unknown, type: OperationType, { schema, table }: Target): WaltideError {
  if (error instanceof WaltideError) return error;
  const state = sqlState(error) ?? '';
  const what = `${type} in ${schema}.${table}`;
  if (REJECTED.some((one) => state.startsWith(one)))
    return new WaltideError(
      'WRITE_REJECTED',
      `${what}: ${(error as Error).message}`,
      'PostgreSQL did not take it and nothing was written; correct the values.',
      { cause: error },
    );
  if (IN_THE_WAY.includes(state))
    return new WaltideError(
      'SOURCE_BUSY',
      `${what}: ${(error as Error).message}`,
      'Another transaction was in the way and nothing was written; try again.',
      { cause: error },
    );
  return queryError(error, what);
}

function notWritten(type: OperationType, { schema, table }: Target): WaltideError {
  return type === 'create'
    ? new WaltideError(
        'WRITE_REJECTED',
        `create in ${schema}.${table}: a trigger of the table left the row out`,
        'See its BEFORE INSERT triggers.',
      )
    : new WaltideError(
        'NOT_FOUND',
        `${schema}.${table} has no row with this key`,
        'Create it, or correct `primary_key`.',
      );
}
