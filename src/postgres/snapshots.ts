import { randomBytes } from 'node:crypto';
import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { isMissing, queryError } from './connection.ts';

/** See the column of `waltide.snapshots`. */
export type SnapshotState = 'pending' | 'running' | 'paused' | 'cancelling' | 'completed' | 'cancelled' | 'failed';

export const ACTIVE_STATES: readonly SnapshotState[] = ['pending', 'running', 'paused', 'cancelling'];

/** NOTIFY on this channel spares the capturing process the wait for its next look. */
export const SNAPSHOT_CHANNEL = 'waltide_snapshots';

/** The key of a row: PostgreSQL's text of each of its columns, in the order of the key's index. */
export type KeyText = readonly string[];

/** What rows must have in common to stand beside each other in one snapshot. */
export interface Layout {
  /** Type and modifier of each column, by its number in the catalog. */
  readonly columns: Readonly<Record<string, string>>;
  /** Name and type of each column of the key, in the order of its index. */
  readonly key: readonly string[];
}

/** A row of `waltide.snapshots`. */
export interface SnapshotRecord {
  readonly id: string;
  readonly slot: string;
  readonly tableOid: number;
  readonly schema: string;
  readonly table: string;
  readonly kind: 'incremental' | 'partial';
  readonly sinks: readonly string[] | null;
  readonly where: string | null;
  readonly rowsPerSecondMax: number | null;
  /** Most rows of a chunk; null for snapshot.chunkRows. */
  readonly chunkRows: number | null;
  readonly reason: string;
  readonly state: SnapshotState;
  readonly begun: boolean;
  readonly cursor: KeyText | null;
  readonly rereads: readonly KeyText[];
  /** Of the rows read so far; null where it begins, or has to begin again. */
  readonly layout: Layout | null;
  readonly rows: number;
  readonly bytes: number;
  readonly estimatedRows: number;
  readonly error: string | null;
  readonly createdAt: Date;
  readonly startedAt: Date | null;
  readonly updatedAt: Date;
  readonly finishedAt: Date | null;
}

const COLUMNS = `id, slot_name AS slot, table_oid::int8::float8 AS "tableOid", schema_name AS schema, table_name AS "table", kind, sinks,
  where_sql AS "where", rows_per_second_max AS "rowsPerSecondMax", chunk_rows AS "chunkRows", reason, state, begun, cursor_key AS cursor, rereads, layout,
  rows_done::float8 AS rows, bytes_done::float8 AS bytes, rows_estimated::float8 AS "estimatedRows", error,
  created_at AS "createdAt", started_at AS "startedAt", updated_at AS "updatedAt", finished_at AS "finishedAt"`;

export interface SnapshotRequest {
  readonly slot: string;
  readonly table: { readonly oid: number; readonly schema: string; readonly table: string };
  readonly kind?: 'incremental' | 'partial';
  readonly sinks?: readonly string[] | null;
  readonly where?: string | null;
  /** Of a partial one: the rows to read, besides those of `where`. One that is not there is removed from the sinks. */
  readonly keys?: readonly KeyText[];
  readonly rowsPerSecondMax?: number | null;
  readonly chunkRows?: number | null;
  readonly estimatedRows?: number;
  /** Why, in words: `waltide snapshot list` shows it. */
  readonly reason: string;
}

/**
 * Asks for a snapshot; whoever captures takes it up. Resolves with its id, or with null where one of the same table is
 * pending, running or paused already.
 */
export async function requestSnapshot(client: pg.Client, request: SnapshotRequest): Promise<string | null> {
  const { slot, table, kind = 'incremental', sinks = null, where = null, rowsPerSecondMax = null } = request;
  const id = randomBytes(6).toString('hex');
  const { rowCount } = await run(
    client,
    `INSERT INTO waltide.snapshots (id, slot_name, table_oid, schema_name, table_name, kind, sinks, where_sql, rows_per_second_max, rows_estimated, reason, rereads, chunk_rows)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING`,
    [
      id,
      slot,
      table.oid,
      table.schema,
      table.table,
      kind,
      sinks,
      where,
      rowsPerSecondMax,
      Math.round(request.estimatedRows ?? 0),
      request.reason,
      JSON.stringify(request.keys ?? []),
      request.chunkRows ?? null,
    ],
  );
  if (rowCount === 0) return null;
  await nudge(client);
  return id;
}

/** Null where there is none of that id. */
export async function readSnapshot(client: pg.Client, id: string): Promise<SnapshotRecord | null> {
  const { rows } = await run(client, `SELECT ${COLUMNS} FROM waltide.snapshots WHERE id = $1`, [id]);
  return (rows[0] as SnapshotRecord | undefined) ?? null;
}

/** Those of one slot, newest first; with `active` only those that have not ended. */
export async function listSnapshots(client: pg.Client, slot: string, active: boolean): Promise<SnapshotRecord[]> {
  try {
    const { rows } = await client.query<SnapshotRecord>(
      `SELECT ${COLUMNS} FROM waltide.snapshots WHERE slot_name = $1 AND ($2::text[] IS NULL OR state = ANY ($2)) ORDER BY created_at DESC, id`,
      [slot, active ? ACTIVE_STATES : null],
    );
    return rows;
  } catch (error) {
    if (isMissing(error)) return [];
    throw queryError(error, 'reading waltide.snapshots');
  }
}

/** What a person may ask of a snapshot that has not ended. */
export type SnapshotWish = 'pause' | 'resume' | 'cancel';

/** One that never began has nothing to tell the sinks: it ends at once. */
const WISHES: Record<SnapshotWish, string> = {
  pause: `state = 'paused' WHERE state IN ('pending', 'running')`,
  resume: `state = 'pending' WHERE state = 'paused'`,
  cancel: `state = CASE WHEN begun OR state = 'running' THEN 'cancelling' ELSE 'cancelled' END,
           finished_at = CASE WHEN begun OR state = 'running' THEN NULL ELSE now() END WHERE state IN ('pending', 'running', 'paused')`,
};

/** Resolves with true where the wish was recorded, false where the snapshot is in no state for it. */
export async function wishSnapshot(client: pg.Client, id: string, wish: SnapshotWish): Promise<boolean> {
  const { rowCount } = await run(
    client,
    `UPDATE waltide.snapshots SET updated_at = now(), ${WISHES[wish]} AND id = $1`,
    [id],
  );
  if (rowCount === 0) return false;
  await nudge(client);
  return true;
}

export interface SnapshotProgress {
  readonly begun?: boolean;
  readonly cursor?: KeyText | null;
  readonly rereads?: readonly KeyText[];
  readonly layout?: Layout | null | undefined;
  readonly rows?: number;
  readonly bytes?: number;
  readonly estimatedRows?: number;
}

/**
 * Saves how far it is and resolves with the state that it is in by now, which somebody may have changed meanwhile;
 * null where the row is gone.
 */
export async function saveSnapshot(
  client: pg.Client,
  id: string,
  { begun, cursor, rereads, layout, rows, bytes, estimatedRows }: SnapshotProgress,
): Promise<SnapshotState | null> {
  const result = await run(
    client,
    `UPDATE waltide.snapshots SET begun = COALESCE($2, begun), cursor_key = CASE WHEN $3 THEN $4 ELSE cursor_key END,
       rereads = COALESCE($5, rereads), rows_done = COALESCE($6, rows_done), bytes_done = COALESCE($7, bytes_done),
       rows_estimated = COALESCE($8, rows_estimated), layout = CASE WHEN $9 THEN $10::jsonb ELSE layout END, updated_at = now()
     WHERE id = $1 RETURNING state`,
    [
      id,
      begun ?? null,
      cursor !== undefined,
      cursor ?? null,
      rereads === undefined ? null : JSON.stringify(rereads),
      rows ?? null,
      bytes ?? null,
      estimatedRows === undefined ? null : Math.round(estimatedRows),
      layout !== undefined,
      layout ? JSON.stringify(layout) : null,
    ],
  );
  return (result.rows[0] as { state: SnapshotState } | undefined)?.state ?? null;
}

/** From pending to running; false where somebody was quicker to pause or cancel it. */
export async function takeSnapshot(client: pg.Client, id: string): Promise<boolean> {
  const { rowCount } = await run(
    client,
    `UPDATE waltide.snapshots SET state = 'running', started_at = COALESCE(started_at, now()), updated_at = now(), error = NULL
     WHERE id = $1 AND state IN ('pending', 'running')`,
    [id],
  );
  return rowCount > 0;
}

/** What a running one waits for: it stands where an error would, as the reason of a pause does. */
const WAITS = 'waits for transactions that have written to the table and began before: ';

/** Notes what a running snapshot waits for; null: it goes on. */
export async function noteWaiting(client: pg.Client, id: string, who: string | null): Promise<void> {
  await run(
    client,
    `UPDATE waltide.snapshots SET error = $2, updated_at = now() WHERE id = $1 AND state IN ('running', 'paused') AND (error IS NULL OR starts_with(error, $3))`,
    [id, who === null ? null : WAITS + who, WAITS],
  );
}

/** True for one that is running and waits. */
export function isWaiting({ state, error }: Pick<SnapshotRecord, 'state' | 'error'>): boolean {
  return state === 'running' && (error?.startsWith(WAITS) ?? false);
}

/** Ends it for good. */
export async function endSnapshot(
  client: pg.Client,
  id: string,
  state: 'completed' | 'cancelled' | 'failed',
  error: string | null = null,
): Promise<void> {
  await run(
    client,
    `UPDATE waltide.snapshots SET state = $2, error = $3, finished_at = now(), updated_at = now(), rereads = '[]' WHERE id = $1`,
    [id, state, error],
  );
}

/** Pauses all that are pending or running, and notes why. Resolves with how many. */
export function pauseSnapshots(client: pg.Client, slot: string, reason: string): Promise<number> {
  return changeAll(client, `state = 'paused', error = $2 WHERE slot_name = $1 AND state IN ('pending', 'running')`, [
    slot,
    reason,
  ]);
}

/** Those that were paused for this very reason go on. Resolves with how many. */
export function resumeSnapshots(client: pg.Client, slot: string, reason: string): Promise<number> {
  return changeAll(client, `state = 'pending', error = NULL WHERE slot_name = $1 AND state = 'paused' AND error = $2`, [
    slot,
    reason,
  ]);
}

/** Where nothing has been set up yet there is nothing to change. */
async function changeAll(client: pg.Client, sql: string, values: unknown[]): Promise<number> {
  try {
    return (await client.query(`UPDATE waltide.snapshots SET updated_at = now(), ${sql}`, values)).rowCount ?? 0;
  } catch (error) {
    if (isMissing(error)) return 0;
    throw queryError(error, 'writing waltide.snapshots');
  }
}

/** With a new slot all of them are void: every table is copied anyway. */
export async function voidSnapshots(client: pg.Client, slot: string): Promise<void> {
  await run(
    client,
    `UPDATE waltide.snapshots SET state = 'cancelled', error = 'every table is copied anew', finished_at = now(), updated_at = now()
     WHERE slot_name = $1 AND state = ANY ($2)`,
    [slot, ACTIVE_STATES],
  );
}

async function nudge(client: pg.Client): Promise<void> {
  await run(client, `NOTIFY ${SNAPSHOT_CHANNEL}`, []);
}

async function run(client: pg.Client, sql: string, values: unknown[]): Promise<{ rowCount: number; rows: unknown[] }> {
  try {
    const { rowCount, rows } = await client.query(sql, values);
    return { rowCount: rowCount ?? 0, rows };
  } catch (error) {
    if (isMissing(error))
      throw new WaltideError(
        'SOURCE_SETTINGS',
        'schema "waltide" of the source has no table for snapshots',
        'Run `waltide setup` with this version first.',
        { cause: error },
      );
    throw queryError(error, 'writing waltide.snapshots');
  }
}
