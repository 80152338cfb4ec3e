import type pg from 'pg';
import { queryError } from './connection.ts';
import type { KeyText } from './snapshots.ts';

/** A row of `waltide.validations`. `request` and `report` are the validation's own. */
export interface ValidationRecord {
  readonly id: string;
  readonly request: unknown;
  readonly state: 'running' | 'completed' | 'failed' | 'cancelled';
  readonly score: number | null;
  readonly ok: boolean | null;
  readonly report: unknown;
  readonly error: string | null;
  readonly startedAt: Date;
  readonly finishedAt: Date | null;
}

/** A row of `waltide.validation_results`. */
export interface ValidationResultRecord<Result> {
  readonly sink: string;
  readonly table: string;
  readonly cursor: KeyText | null;
  readonly finished: boolean;
  readonly result: Result;
}

interface Counts {
  readonly sink: string;
  readonly table: string;
  readonly lsn: string;
  readonly sourceRows: number;
  readonly sinkRows: number;
  readonly missing: number;
  readonly extra: number;
  readonly different: number;
  readonly unsettled: number;
  readonly repaired: number;
  readonly score: number;
}

/** Begins a validation, or goes on with the one of that id. */
export async function beginValidation(client: pg.Client, id: string, slot: string, request: unknown): Promise<void> {
  await run(
    client,
    `INSERT INTO waltide.validations (id, slot_name, request) VALUES ($1, $2, $3)
     ON CONFLICT (id) DO UPDATE SET state = 'running', error = NULL, finished_at = NULL, updated_at = now()`,
    [id, slot, JSON.stringify(request)],
  );
}

/** Saves how one table compares so far: up to `cursor`, or as a whole where that is null. */
export async function saveValidationResult(
  client: pg.Client,
  id: string,
  cursor: KeyText | null,
  result: Counts,
): Promise<void> {
  const { sink, table, lsn, sourceRows, sinkRows, missing, extra, different, unsettled, repaired, score } = result;
  await run(
    client,
    `INSERT INTO waltide.validation_results (validation_id, sink, table_name, cursor_key, finished, lsn, source_rows, sink_rows,
       missing, extra, different, unsettled, repaired, score, result)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
     ON CONFLICT (validation_id, sink, table_name) DO UPDATE SET cursor_key = excluded.cursor_key, finished = excluded.finished,
       lsn = excluded.lsn, source_rows = excluded.source_rows, sink_rows = excluded.sink_rows, missing = excluded.missing,
       extra = excluded.extra, different = excluded.different, unsettled = excluded.unsettled, repaired = excluded.repaired,
       score = excluded.score, result = excluded.result, updated_at = now()`,
    [
      ...[id, sink, table, cursor, cursor === null, lsn, sourceRows, sinkRows],
      ...[missing, extra, different, unsettled, repaired, score, JSON.stringify(result)],
    ],
  );
}

export async function endValidation(
  client: pg.Client,
  id: string,
  end: {
    readonly state: 'completed' | 'failed' | 'cancelled';
    readonly score?: number;
    readonly ok?: boolean;
    readonly report?: unknown;
    readonly error?: string;
  },
): Promise<void> {
  await run(
    client,
    `UPDATE waltide.validations SET state = $2, score = $3, ok = $4, report = $5, error = $6, finished_at = now(), updated_at = now()
     WHERE id = $1`,
    [
      id,
      end.state,
      end.score ?? null,
      end.ok ?? null,
      end.report === undefined ? null : JSON.stringify(end.report),
      end.error ?? null,
    ],
  );
}

/** Null where there is none of that id. */
export async function readValidation(client: pg.Client, slot: string, id: string): Promise<ValidationRecord | null> {
  return (await select(client, `slot_name = $1 AND id = $2`, [slot, id]))[0] ?? null;
}

/** Newest first. */
export function listValidations(client: pg.Client, slot: string, max: number): Promise<ValidationRecord[]> {
  return select(client, 'slot_name = $1 ORDER BY started_at DESC LIMIT $2', [slot, max]);
}

export async function validationResults<Result>(
  client: pg.Client,
  id: string,
): Promise<ValidationResultRecord<Result>[]> {
  const { rows } = await run(
    client,
    `SELECT sink, table_name AS "table", cursor_key AS cursor, finished, result FROM waltide.validation_results
     WHERE validation_id = $1 ORDER BY sink, table_name`,
    [id],
  );
  return rows as ValidationResultRecord<Result>[];
}

/** What the last validation of one table in one sink found. */
export interface StoredScore {
  readonly sink: string;
  readonly table: string;
  /** Percent of rows that were equal. */
  readonly score: number;
  readonly differences: number;
  readonly at: Date;
}

/**
 * In SQL, whether a row of `waltide.validations` compared the data of whole tables. Counts of rows, one key, a sample and rows
 * since a time say nothing of a table.
 */
export const comparedAll = (validation: string): string =>
  `(NOT jsonb_exists_any(${validation}.request, ARRAY['key', 'since', 'sample'])
    AND (${validation}.request->'checks' IS NULL OR jsonb_exists(${validation}.request->'checks', 'data_hash')))`;

/** The newest of each sink and table, of validations that compared all of it. */
export async function latestScores(client: pg.Client, slot: string): Promise<StoredScore[]> {
  const { rows } = await run(
    client,
    `SELECT DISTINCT ON (r.sink, r.table_name) r.sink, r.table_name AS "table", r.score::float8 AS score,
       (r.missing + r.extra + r.different)::float8 AS differences, r.updated_at AS at
     FROM waltide.validation_results r JOIN waltide.validations v ON v.id = r.validation_id
     WHERE v.slot_name = $1 AND r.finished AND ${comparedAll('v')}
     ORDER BY r.sink, r.table_name, r.updated_at DESC`,
    [slot],
  );
  return rows as StoredScore[];
}

async function select(client: pg.Client, where: string, values: unknown[]): Promise<ValidationRecord[]> {
  const { rows } = await run(
    client,
    `SELECT id, request, state, score::float8 AS score, ok, report, error, started_at AS "startedAt", finished_at AS "finishedAt"
     FROM waltide.validations WHERE ${where}`,
    values,
  );
  return rows as ValidationRecord[];
}

async function run(client: pg.Client, sql: string, values: unknown[]): Promise<{ rows: unknown[] }> {
  try {
    return await client.query(sql, values);
  } catch (error) {
    throw queryError(error, 'recording a validation');
  }
}
