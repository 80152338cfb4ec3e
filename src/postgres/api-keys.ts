import { randomBytes } from 'node:crypto';
import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { isMissing, queryError, sqlState } from './connection.ts';

/** Each may do what those before it may. viewer: sees states, no row; operator: sees rows, starts work; admin: all. */
export const ACCESS_ROLES = ['viewer', 'operator', 'admin'] as const;
export type AccessRole = (typeof ACCESS_ROLES)[number];

/** What a key may be called. */
export const API_KEY_NAME = /^[A-Za-z0-9_.@-]{1,64}$/;

/** A row of `waltide.api_keys`, without its hash. */
export interface ApiKey {
  readonly id: string;
  readonly name: string;
  readonly role: AccessRole;
  readonly createdAt: Date;
  readonly createdBy: string;
  readonly expiresAt: Date | null;
  readonly revokedAt: Date | null;
  readonly lastUsedAt: Date | null;
}

const COLUMNS = `id, name, role, created_at AS "createdAt", created_by AS "createdBy", expires_at AS "expiresAt",
  revoked_at AS "revokedAt", last_used_at AS "lastUsedAt"`;

/** Resolves = stored. Rejects with USAGE where a key of that name is in use. */
export async function insertApiKey(
  client: pg.Client,
  key: { name: string; role: AccessRole; hash: Buffer; createdBy: string; expiresAt: Date | null },
): Promise<ApiKey> {
  try {
    const { rows } = await client.query<ApiKey>(
      `INSERT INTO waltide.api_keys (id, name, role, hash, created_by, expires_at) VALUES ($1, $2, $3, $4, $5, $6) RETURNING ${COLUMNS}`,
      [randomBytes(6).toString('hex'), key.name, key.role, key.hash, key.createdBy, key.expiresAt],
    );
    return rows[0]!;
  } catch (error) {
    if (sqlState(error) === '23505')
      throw new WaltideError(
        'USAGE',
        `there is a key named "${key.name}" already`,
        'Take another name, or revoke that key first: `waltide api-key revoke`.',
      );
    throw keysError(error, 'writing');
  }
}

export async function listApiKeys(client: pg.Client): Promise<ApiKey[]> {
  try {
    const { rows } = await client.query<ApiKey>(`SELECT ${COLUMNS} FROM waltide.api_keys ORDER BY created_at, id`);
    return rows;
  } catch (error) {
    if (isMissing(error)) return [];
    throw keysError(error, 'reading');
  }
}

/** By name or id; resolves with the key, or null where none that is in use is called so. */
export async function revokeApiKey(client: pg.Client, nameOrId: string): Promise<ApiKey | null> {
  try {
    const { rows } = await client.query<ApiKey>(
      `UPDATE waltide.api_keys SET revoked_at = now() WHERE revoked_at IS NULL AND (name = $1 OR id = $1) RETURNING ${COLUMNS}`,
      [nameOrId],
    );
    return rows[0] ?? null;
  } catch (error) {
    throw keysError(error, 'writing');
  }
}

export interface HashedKey extends ApiKey {
  readonly hash: Buffer;
}

/** The key of this id, or all where it is null: such as are in use, and so neither revoked nor expired. */
export async function usableApiKeys(client: pg.Client, id: string | null): Promise<HashedKey[]> {
  try {
    const { rows } = await client.query<HashedKey>(
      `SELECT ${COLUMNS}, hash FROM waltide.api_keys
       WHERE ($1::text IS NULL OR id = $1) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())`,
      [id],
    );
    return rows;
  } catch (error) {
    if (isMissing(error)) return [];
    throw keysError(error, 'reading');
  }
}

/** To the minute. */
export async function touchApiKey(client: pg.Client, id: string): Promise<void> {
  await client.query(
    `UPDATE waltide.api_keys SET last_used_at = now() WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')`,
    [id],
  );
}

function keysError(error: unknown, doing: string): WaltideError {
  if (isMissing(error))
    return new WaltideError(
      'SOURCE_SETTINGS',
      'schema "waltide" of the source has no table for API keys',
      'Run `waltide setup` with this version first.',
      { cause: error },
    );
  return queryError(error, `${doing} waltide.api_keys`);
}
