import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { isMissing, queryError } from './connection.ts';

export type AuditOutcome = 'in_progress' | 'success' | 'accepted' | 'refused' | 'error';

/** Who calls what. */
export interface AuditCall {
  readonly requestId: string;
  readonly principal: string;
  readonly role: string;
  readonly address: string | null;
  readonly method: string;
  readonly route: string;
  /** What it is about: parameters of path and query, and what the route names of its body. */
  readonly target: unknown;
}

export interface AuditEnd {
  readonly outcome: Exclude<AuditOutcome, 'in_progress'>;
  readonly status: number;
  readonly errorCode: string | null;
  readonly durationMs: number;
  /** Ids that the call has made, to stand beside what it was about. */
  readonly made: object;
}

/** A row of `waltide.audit_log`. */
export interface AuditRecord extends AuditCall {
  readonly id: number;
  readonly at: Date;
  readonly outcome: AuditOutcome;
  readonly status: number | null;
  readonly errorCode: string | null;
  readonly durationMs: number | null;
}

/** Resolves with the record's id once it is durable. */
export async function beginAudit(client: pg.Client, call: AuditCall): Promise<string> {
  try {
    const { rows } = await client.query<{ id: string }>(
      `INSERT INTO waltide.audit_log (request_id, principal, role, address, method, route, target)
       VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id`,
      [
        call.requestId,
        call.principal,
        call.role,
        call.address,
        call.method,
        call.route,
        // PostgreSQL's jsonb has no U+0000, whatever a client may send.
        JSON.stringify(call.target).replaceAll('\\u0000', '\\ufffd'),
      ],
    );
    return rows[0]!.id;
  } catch (error) {
    throw auditError(error, 'writing');
  }
}

export async function endAudit(client: pg.Client, id: string, end: AuditEnd): Promise<void> {
  try {
    await client.query(
      'UPDATE waltide.audit_log SET outcome = $2, status = $3, error_code = $4, duration_ms = $5, target = target || $6 WHERE id = $1',
      [id, end.outcome, end.status, end.errorCode, end.durationMs, JSON.stringify(end.made)],
    );
  } catch (error) {
    throw auditError(error, 'writing');
  }
}

export interface AuditFilter {
  readonly principal: string | null;
  readonly outcome: AuditOutcome | null;
  readonly before: number | null;
  readonly limit: number;
}

/** Newest first; `before` an id, for the next page. */
export async function listAudit(client: pg.Client, filter: AuditFilter): Promise<AuditRecord[]> {
  try {
    const { rows } = await client.query<AuditRecord>(
      `SELECT id::float8 AS id, at, request_id AS "requestId", principal, role, address, method, route, target, outcome, status,
         error_code AS "errorCode", duration_ms AS "durationMs"
       FROM waltide.audit_log AS log WHERE ($1::text IS NULL OR principal = $1) AND ($2::text IS NULL OR outcome = $2)
         AND ($3::float8 IS NULL OR log.id < $3::float8) ORDER BY log.id DESC LIMIT $4`,
      [filter.principal, filter.outcome, filter.before, filter.limit],
    );
    return rows;
  } catch (error) {
    if (isMissing(error)) return [];
    throw auditError(error, 'reading');
  }
}

/** Removes what is older. Resolves with how many. */
export async function purgeAudit(client: pg.Client, days: number): Promise<number> {
  try {
    const { rowCount } = await client.query(
      'DELETE FROM waltide.audit_log WHERE at < now() - make_interval(days => $1)',
      [days],
    );
    return rowCount ?? 0;
  } catch (error) {
    if (isMissing(error)) return 0;
    throw auditError(error, 'writing');
  }
}

function auditError(error: unknown, doing: string): WaltideError {
  if (isMissing(error))
    return new WaltideError(
      'SOURCE_SETTINGS',
      'schema "waltide" of the source has no audit log',
      'Run `waltide setup` with this version first.',
      { cause: error },
    );
  return queryError(error, `${doing} waltide.audit_log`);
}
