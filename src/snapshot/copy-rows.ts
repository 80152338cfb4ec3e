import pg from 'pg';
import { messageOf, WaltideError } from '../errors.ts';
import { type CopiedRows, copiedRows } from '../event/copied-rows.ts';
import { queryError } from '../postgres/connection.ts';
import { COPY_DATA, CopySession, ServerError } from '../postgres/copy-session.ts';
import type { PublishedTable } from '../postgres/publication.ts';
import { fromOf, type TableShape, targetOf } from './table-shape.ts';

const { escapeIdentifier } = pg;

/** Where rows are read: a table or one of its partitions, whole or some blocks of its heap. */
export interface CopySource {
  /** Quoted. */
  readonly from: string;
  /** The last block excluded; null: to the end. */
  readonly range: { readonly from: number; readonly to: number | null } | null;
}

/** What is copied: a table as it is published, and as events carry it. */
export type CopyTarget = Pick<TableShape, 'table' | 'relation'>;

/**
 * All rows (of `source`, null for the whole table) by COPY, in the transaction that `client` has begun; the connection is used up. Ends
 * early when `signal` aborts. `small`: in as many blocks as cost least, for whoever puts them together again.
 */
export async function* copyRows(
  client: pg.Client,
  target: CopyTarget,
  source: CopySource | null,
  signal: AbortSignal,
  small = false,
): AsyncGenerator<CopiedRows> {
  const name = `${target.table.schema}.${target.table.table}`;
  const onAbort = (): void => session?.destroy();
  let session: CopySession | null = null;
  try {
    session = await CopySession.start(client, copyCommand(target, source));
    signal.addEventListener('abort', onAbort, { once: true });
    for (let parts = await next(session, small); parts; parts = await next(session, small)) {
      for (const frames of parts) {
        const rows = rowsOf(session, frames, target);
        if (rows.count > 0) yield rows;
      }
    }
  } catch (error) {
    if (signal.aborted) return;
    throw copyError(error, name);
  } finally {
    signal.removeEventListener('abort', onAbort);
    session?.destroy();
  }
}

async function next(session: CopySession, small: boolean): Promise<readonly Buffer[] | null> {
  if (small) return session.readParts();
  const frames = await session.read();
  return frames && [frames];
}

function copyCommand(target: CopyTarget, source: CopySource | null): string {
  const { relation, table } = target;
  const columns = relation.columns.map((column) => escapeIdentifier(column.name)).join(', ');
  const conditions = table.rowFilter ? [`(${table.rowFilter})`] : [];
  const { range = null, from = targetOf(target) } = source ?? {};
  if (range) conditions.push(`ctid >= '(${range.from},0)'::tid`);
  if (range?.to != null) conditions.push(`ctid < '(${range.to},0)'::tid`);
  const whole = source ? `ONLY ${from}` : fromOf(target);
  // COPY of a bare name takes neither partitioned tables nor generated columns nor conditions.
  const bare = (source || table.kind !== 'p') && !table.generated && relation.columns.length > 0;
  if (bare && conditions.length === 0) return `COPY ${from} (${columns}) TO STDOUT`;
  const where = conditions.length > 0 ? ` WHERE ${conditions.join(' AND ')}` : '';
  return `COPY (SELECT ${columns} FROM ${whole}${where}) TO STDOUT`;
}

/** The server sends one row per CopyData message. Throws a RangeError where they do not have the table's columns. */
function rowsOf(session: CopySession, frames: Buffer, { relation }: CopyTarget): CopiedRows {
  let count = 0;
  for (let at = 0; at < frames.length; at += 1 + frames.readUInt32BE(at + 1)) {
    if (frames[at] === COPY_DATA) count++;
    else session.control(frames, at);
  }
  const starts = new Int32Array(count);
  const ends = new Int32Array(count);
  for (let at = 0, row = 0; row < count; ) {
    const end = at + 1 + frames.readUInt32BE(at + 1);
    if (frames[at] === COPY_DATA) {
      starts[row] = at + 5;
      ends[row++] = end;
    }
    at = end;
  }
  return copiedRows(relation, frames, starts, ends);
}

function copyError(error: unknown, name: string): WaltideError {
  const options = { cause: error };
  if (error instanceof ServerError)
    return new WaltideError(
      'SOURCE_QUERY',
      `copying ${name}: ${error.message}`,
      'Correct the table or leave it out by source.exclude.',
      options,
    );
  if (error instanceof RangeError)
    return new WaltideError(
      'PROTOCOL',
      `copying ${name}: ${messageOf(error)}`,
      'The table was altered during the copy; start again.',
      options,
    );
  return queryError(error, `copying ${name}`);
}

/**
 * False where the table was dropped, truncated or rewritten after the snapshot of `client`'s transaction: it would look empty. The
 * lock keeps it so from here on. The catalog's rows are those of the snapshot, the function's answer is of now.
 */
export async function isReadable(client: pg.Client, table: PublishedTable): Promise<boolean> {
  const target = `${escapeIdentifier(table.schema)}.${escapeIdentifier(table.table)}`;
  try {
    await client.query(`LOCK TABLE ${table.kind === 'p' ? '' : 'ONLY '}${target} IN ACCESS SHARE MODE`);
    const { rows } = await client.query<{ same: boolean | null }>(
      `SELECT bool_and(c.relkind NOT IN ('r', 'm') OR c.relfilenode = 0 OR c.relfilenode IS NOT DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid)) AS same
       FROM pg_catalog.pg_class c WHERE c.oid IN (SELECT $1::oid UNION SELECT relid FROM pg_catalog.pg_partition_tree($1::oid))`,
      [table.oid],
    );
    return rows[0]?.same === true;
  } catch (error) {
    throw queryError(error, `locking ${table.schema}.${table.table}`);
  }
}
