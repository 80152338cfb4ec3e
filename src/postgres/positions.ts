import type pg from 'pg';
import { formatLsn, LSN_MAX, type Lsn, parseLsn } from '../event/lsn.ts';
import { isMissing, queryError } from './connection.ts';

/** Longer than anyone retains WAL in a slot on purpose. */
const KEEP = '8 days';

/** Where the WAL was at a time: whatever committed after `at` lies at or after `lsn`. */
export interface WalMoment {
  readonly lsn: Lsn;
  readonly at: Date;
}

/** Notes where the WAL is now, for `momentBefore`, and forgets what is too old to be of use. */
export async function notePosition(client: pg.Client): Promise<void> {
  await run(
    client,
    `INSERT INTO waltide.positions (lsn, at) SELECT lsn, pg_catalog.clock_timestamp() FROM (SELECT pg_catalog.pg_current_wal_insert_lsn() AS lsn OFFSET 0) now
     ON CONFLICT DO NOTHING`,
    [],
  );
  await run(client, `DELETE FROM waltide.positions WHERE at < now() - interval '${KEEP}'`, []);
}

/**
 * The latest position known from before `time`, and before every later one; null where none is known. By LSN: where the
 * server's clock was set back, times do not rise with it.
 */
export function momentBefore(client: pg.Client, time: Date): Promise<WalMoment | null> {
  const later = 'SELECT min(lsn) FROM waltide.positions WHERE at > $1';
  return moment(
    client,
    `WHERE at <= $1 AND lsn < COALESCE((${later}), '${formatLsn(LSN_MAX)}') ORDER BY positions.lsn DESC`,
    [time],
  );
}

/** The first position known from after `time`, and after every earlier one: nothing that committed by then lies after it. */
export function momentAfter(client: pg.Client, time: Date): Promise<WalMoment | null> {
  const earlier = 'SELECT max(lsn) FROM waltide.positions WHERE at < $1';
  return moment(client, `WHERE at >= $1 AND lsn > COALESCE((${earlier}), '0/0') ORDER BY positions.lsn`, [time]);
}

/** The last position known at or before `lsn`. */
export function momentUpTo(client: pg.Client, lsn: Lsn): Promise<WalMoment | null> {
  return moment(client, 'WHERE lsn <= $1 ORDER BY positions.lsn DESC', [formatLsn(lsn)]);
}

/** The first position known at or after `lsn`. */
export function momentOf(client: pg.Client, lsn: Lsn): Promise<WalMoment | null> {
  return moment(client, 'WHERE lsn >= $1 ORDER BY positions.lsn', [formatLsn(lsn)]);
}

/** Orders must name the table: `lsn` alone is the text that is selected, and '0/F' comes after '0/10000000' there. */
async function moment(client: pg.Client, where: string, values: unknown[]): Promise<WalMoment | null> {
  const [row] = await run<{ lsn: string; at: Date }>(
    client,
    `SELECT lsn::text, at FROM waltide.positions ${where} LIMIT 1`,
    values,
  );
  return row ? { lsn: parseLsn(row.lsn), at: row.at } : null;
}

/** Every position known from after `lsn` on, oldest first, and how long ago that was by the server's own clock. */
export async function momentsSince(client: pg.Client, lsn: Lsn): Promise<{ lsn: Lsn; ageMs: number }[]> {
  const rows = await run<{ lsn: string; ageMs: number }>(
    client,
    `SELECT lsn::text, GREATEST(extract(epoch FROM pg_catalog.clock_timestamp() - at) * 1000, 0)::float8 AS "ageMs"
     FROM waltide.positions WHERE lsn > $1 ORDER BY positions.lsn`,
    [formatLsn(lsn)],
  );
  return rows.map((row) => ({ lsn: parseLsn(row.lsn), ageMs: row.ageMs }));
}

/** How far a slot and its sinks were; `durable` under no name, sinks under theirs. */
export type Marks = Map<string, WalMoment>;
/** Everything before it had been durable downstream. */
export const DURABLE = '';

export async function readMarks(client: pg.Client, slot: string): Promise<Marks> {
  const rows = await run<{ name: string; lsn: string; at: Date }>(
    client,
    'SELECT name, lsn::text, at FROM waltide.marks WHERE slot_name = $1',
    [slot],
  );
  return new Map(rows.map(({ name, lsn, at }) => [name, { lsn: parseLsn(lsn), at }]));
}

export async function saveMarks(client: pg.Client, slot: string, marks: ReadonlyMap<string, Lsn>): Promise<void> {
  await run(
    client,
    `INSERT INTO waltide.marks (slot_name, name, lsn) SELECT $1, * FROM ROWS FROM (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::pg_lsn[])) m
     ON CONFLICT (slot_name, name) DO UPDATE SET lsn = excluded.lsn, at = now() WHERE marks.lsn <> excluded.lsn`,
    [slot, [...marks.keys()], [...marks.values()].map(formatLsn)],
  );
}

/** A new slot begins without a past. */
export async function forgetMarks(client: pg.Client, slot: string): Promise<void> {
  await run(client, 'DELETE FROM waltide.marks WHERE slot_name = $1', [slot]);
}

async function run<T extends object>(client: pg.Client, sql: string, values: unknown[]): Promise<T[]> {
  try {
    return (await client.query<T>(sql, values)).rows;
  } catch (error) {
    // No schema of ours yet, or one of before these tables.
    if (isMissing(error)) return [];
    throw queryError(error, 'waltide.positions');
  }
}
