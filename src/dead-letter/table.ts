import type pg from 'pg';
import { formatLsn, parseLsn } from '../event/lsn.ts';
import type { Position } from '../event/position.ts';
import type { Relation } from '../event/relation.ts';
import type { RowTexts } from '../event/row-text.ts';
import { isMissing, queryError } from '../postgres/connection.ts';

export const LETTER_STATES = ['open', 'retrying', 'retried', 'resolved', 'superseded', 'discarded'] as const;
/** See the column of `waltide.dead_letters`. */
export type LetterState = (typeof LETTER_STATES)[number];

/** Why a letter is closed whose sink begins again before its change. */
export const COMES_AGAIN = 'its change comes again';

/** NOTIFY on this channel spares the process that holds the sink the wait for its next look. */
export const LETTER_CHANNEL = 'waltide_dead_letters';

/** A row of `waltide.dead_letters`. */
export interface DeadLetter {
  readonly id: number;
  /** `*` for what never came into the log: every sink lacks it. */
  readonly sink: string;
  readonly position: Position;
  readonly xid: number;
  readonly committedAt: Date;
  readonly tableOid: number;
  readonly schema: string;
  readonly table: string;
  readonly row: string;
  readonly op: string;
  readonly before: RowTexts | null;
  readonly after: RowTexts | null;
  readonly relation: Relation;
  readonly errorClass: string;
  readonly code: string;
  readonly message: string;
  readonly attempts: number;
  readonly state: LetterState;
  readonly forced: boolean;
  /** Of the change that resolved or superseded it. */
  readonly closedBy: Position | null;
  readonly supersededBy: number | null;
  readonly closedReason: string | null;
  readonly createdAt: Date;
  readonly updatedAt: Date;
  readonly closedAt: Date | null;
}

/** Which letters are meant; what is left out does not matter. */
export interface LetterFilter {
  readonly ids?: readonly number[];
  readonly sink?: string;
  /** `schema.table`, where `*` and `?` match within a name. */
  readonly table?: string;
  readonly states?: readonly LetterState[];
  readonly code?: string;
  readonly since?: Date;
}

const COLUMNS = `d.id::float8 AS id, d.sink, d.commit_lsn::text AS lsn, d.seq::float8 AS seq, d.xid::float8 AS xid, d.committed_at AS "committedAt",
  d.table_oid::float8 AS "tableOid", d.schema_name AS schema, d.table_name AS "table", d.row_name AS row, d.op, d.before, d.after, r.relation,
  d.error_class AS "errorClass", d.error_code AS code, d.error_message AS message, d.attempts, d.state, d.forced, d.closed_lsn::text AS "closedLsn",
  d.closed_seq::float8 AS "closedSeq", d.superseded_by::float8 AS "supersededBy", d.closed_reason AS "closedReason",
  d.created_at AS "createdAt", d.updated_at AS "updatedAt", d.closed_at AS "closedAt"`;
const FROM = 'waltide.dead_letters d JOIN waltide.dead_letter_relations r ON r.id = d.relation_id';

/** Takes $1 to $7. */
const WHERE = `d.slot_name = $1 AND ($2::bigint[] IS NULL OR d.id = ANY ($2)) AND ($3::text IS NULL OR d.sink = $3)
  AND ($4::text IS NULL OR d.schema_name || '.' || d.table_name LIKE $4) AND ($5::text[] IS NULL OR d.state = ANY ($5))
  AND ($6::text IS NULL OR d.error_code = $6) AND ($7::timestamptz IS NULL OR d.created_at >= $7)`;

function values(slot: string, { ids, sink, table, states, code, since }: LetterFilter): unknown[] {
  const like =
    table
      ?.replace(/[\\%_]/g, '\\$&')
      .replaceAll('*', '%')
      .replaceAll('?', '_') ?? null;
  return [slot, ids ?? null, sink ?? null, like, states ?? null, code ?? null, since ?? null];
}

interface LetterRow extends Omit<DeadLetter, 'position' | 'closedBy'> {
  readonly lsn: string;
  readonly seq: number;
  readonly closedLsn: string | null;
  readonly closedSeq: number | null;
}

function letter({ lsn, seq, closedLsn, closedSeq, ...rest }: LetterRow): DeadLetter {
  const closedBy = closedLsn === null ? null : { commitLsn: parseLsn(closedLsn), seq: closedSeq! };
  return { ...rest, position: { commitLsn: parseLsn(lsn), seq }, closedBy };
}

async function letters(client: pg.Client, sql: string, parameters: unknown[]): Promise<DeadLetter[]> {
  return (await run<LetterRow>(client, `SELECT ${COLUMNS} FROM ${FROM} ${sql}`, parameters)).map(letter);
}

/** Rejects as `queryError` says; nothing is found where the schema has no letters yet. */
async function run<T extends object>(client: pg.Client, sql: string, parameters: unknown[]): Promise<T[]> {
  try {
    return (await client.query<T>(sql, parameters)).rows;
  } catch (error) {
    if (isMissing(error)) return [];
    throw queryError(error, 'waltide.dead_letters');
  }
}

/** At most `max` letters with ids above `after`, by id. For reading all of them page by page. */
export function listLetters(
  client: pg.Client,
  slot: string,
  filter: LetterFilter,
  { max, after = 0 }: { readonly max: number; readonly after?: number },
): Promise<DeadLetter[]> {
  return letters(client, `WHERE ${WHERE} AND d.id > $8 ORDER BY d.id LIMIT $9`, [...values(slot, filter), after, max]);
}

/** The newest `max` letters, newest first. */
export function newestLetters(
  client: pg.Client,
  slot: string,
  filter: LetterFilter,
  max: number,
): Promise<DeadLetter[]> {
  return letters(client, `WHERE ${WHERE} ORDER BY d.id DESC LIMIT $8`, [...values(slot, filter), max]);
}

export async function countLetters(client: pg.Client, slot: string, filter: LetterFilter): Promise<number> {
  const sql = `SELECT count(*)::float8 AS count FROM waltide.dead_letters d WHERE ${WHERE}`;
  return (await run<{ count: number }>(client, sql, values(slot, filter)))[0]?.count ?? 0;
}

/** Of letters that were retried, those that were refused again: still open, or closed by what had closed them before. */
export async function countRefused(client: pg.Client, slot: string, ids: readonly number[]): Promise<number> {
  const sql = `SELECT count(*)::float8 AS count FROM waltide.dead_letters
    WHERE slot_name = $1 AND id = ANY ($2) AND (state = 'open' OR closed_at < updated_at)`;
  return (await run<{ count: number }>(client, sql, [slot, ids]))[0]?.count ?? 0;
}

/** Those that are to be retried into one of these sinks, in the order of their changes. */
export function retryingLetters(
  client: pg.Client,
  slot: string,
  sink: string,
  after: Position,
  max: number,
): Promise<DeadLetter[]> {
  return letters(
    client,
    `WHERE d.slot_name = $1 AND d.sink = $2 AND d.state = 'retrying' AND (d.commit_lsn, d.seq) > ($3::pg_lsn, $4)
     ORDER BY d.commit_lsn, d.seq LIMIT $5`,
    [slot, sink, formatLsn(after.commitLsn), after.seq, max],
  );
}

/** Letters of the same row that this one superseded, directly and through others: newest first. */
export async function supersededLetters(client: pg.Client, id: number): Promise<DeadLetter[]> {
  return letters(
    client,
    `WHERE d.id IN (WITH RECURSIVE earlier(id) AS (
       SELECT id FROM waltide.dead_letters WHERE superseded_by = $1
       UNION SELECT e.id FROM waltide.dead_letters e JOIN earlier ON e.superseded_by = earlier.id) SELECT id FROM earlier)
     ORDER BY d.commit_lsn DESC, d.seq DESC`,
    [id],
  );
}

/**
 * Asks the processes that hold the sinks to apply these letters. Only open ones are taken, since a later change of the row
 * has closed the others; with `force` any but one that is being retried, or that a newer letter of its row
 * superseded. Resolves with the ids that were taken.
 */
export async function requestRetry(
  client: pg.Client,
  slot: string,
  filter: LetterFilter,
  force: boolean,
): Promise<number[]> {
  const rows = await run<{ id: number }>(
    client,
    `UPDATE waltide.dead_letters d SET state = 'retrying', forced = $8, updated_at = now()
     WHERE ${WHERE} AND d.sink <> '*' AND (d.state = 'open' OR $8 AND d.state NOT IN ('retrying', 'superseded')) RETURNING d.id::float8 AS id`,
    [...values(slot, filter), force],
  );
  if (rows.length > 0) await run(client, 'SELECT pg_catalog.pg_notify($1, $2)', [LETTER_CHANNEL, slot]);
  return rows.map(({ id }) => id).sort((a, b) => a - b);
}

/** Open letters that nobody will apply any more, and why. The rows stay as they are in the sinks. Resolves with their ids. */
export async function discardLetters(
  client: pg.Client,
  slot: string,
  filter: LetterFilter,
  reason: string,
): Promise<number[]> {
  const rows = await run<{ id: number }>(
    client,
    `UPDATE waltide.dead_letters d SET state = 'discarded', closed_reason = $8, updated_at = now(), closed_at = now()
     WHERE ${WHERE} AND d.state IN ('open', 'retrying') RETURNING d.id::float8 AS id`,
    [...values(slot, filter), reason],
  );
  return rows.map(({ id }) => id).sort((a, b) => a - b);
}

/** What a letter that is being retried was before: what had closed it is kept until it is applied. */
const BEFORE = `CASE WHEN closed_at IS NULL THEN 'open' WHEN closed_lsn IS NOT NULL THEN 'resolved'
  WHEN closed_reason = '${COMES_AGAIN}' THEN 'resolved' WHEN closed_reason IS NOT NULL THEN 'discarded' ELSE 'retried' END`;

/**
 * The sink has it, or (`error`) refused it once more, and nothing is another than before. Resolves with how many were still
 * retried: a sink that sets rows aside itself has opened again what it refused.
 */
export async function endRetries(
  client: pg.Client,
  ids: readonly number[],
  error: { readonly code: string; readonly message: string } | null,
): Promise<number> {
  const rows = await run(
    client,
    `UPDATE waltide.dead_letters SET attempts = attempts + 1, updated_at = now(), ${
      error === null
        ? `state = 'retried', closed_at = now(), closed_lsn = NULL, closed_seq = NULL, closed_reason = NULL`
        : `state = ${BEFORE}, error_code = $2, error_message = $3`
    } WHERE id = ANY ($1) AND state = 'retrying' RETURNING id`,
    error === null ? [ids] : [ids, error.code, error.message],
  );
  return rows.length;
}
