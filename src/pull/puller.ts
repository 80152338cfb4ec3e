import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { queryError, sqlState } from '../postgres/connection.ts';
import type { Pull, PullContext, PullPage } from './pull.ts';
import { statementsOf } from './statements.ts';
import { findPullTable, type PullTable, type PullTableSpec } from './table.ts';

/** SQLSTATEs, or their first two characters: PostgreSQL does not take what was pulled, and never will. */
const REJECTED = ['22', '23', '44', 'P0', '42804', '428C9'];
/** No unique constraint is on the columns of the key. */
const NO_CONSTRAINT = '42P10';

export interface PullJob {
  readonly slot: string;
  /** Its cursor is kept under it. */
  readonly name: string;
  readonly spec: PullTableSpec;
}

/** A session for writes: commits are durable, and search_path is pg_catalog but for the write itself. */
export interface PullSession {
  readonly client: pg.Client;
  readonly ownSearchPath: string;
}

/**
 * Writes page after page, each in one transaction with its cursor: killed at whatever time, the next run goes on from the last
 * page that was written. Resolves with how many rows came. Rejects with PULL where PostgreSQL does not take them, with RUN_LOST where
 * another run has moved the cursor.
 */
export async function pullInto(
  session: PullSession,
  job: PullJob,
  pull: Pull,
  context: PullContext,
  onPage: (rows: number, page: PullPage) => void,
): Promise<number> {
  const { client } = session;
  const table = await findPullTable(client, job.spec);
  let { cursor, pages } = await readCursor(client, job);
  let rows = 0;
  const iterator = pull(cursor, context)[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await unlessAborted(iterator.next(), context.signal);
      if (next.done) return rows;
      checkPage(next.value, job.name);
      cursor = next.value.cursor;
      const count = (next.value.rows?.length ?? 0) + (next.value.deletes?.length ?? 0);
      await writePage(session, job, table, next.value, { pages, count });
      pages++;
      rows += count;
      onPage(rows, next.value);
    }
  } finally {
    // What it holds open, it may close. Not waited for: it may be what hangs.
    iterator.return?.().catch(() => {});
  }
}

async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  let abort = (): void => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    abort = () => reject(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

function checkPage(page: PullPage | undefined, name: string): void {
  const lists = [page?.rows ?? [], page?.deletes ?? []];
  if (page && page.cursor !== undefined && lists.every((list) => Array.isArray(list))) return;
  throw new WaltideError(
    'PULL',
    `schedule "${name}": a page needs \`cursor\`, and \`rows\` and \`deletes\` are lists`,
    'Yield { rows: [{ … }], cursor: … }.',
  );
}

async function readCursor(client: pg.Client, { slot, name }: PullJob): Promise<{ cursor: unknown; pages: number }> {
  try {
    await client.query('INSERT INTO waltide.pulls (slot_name, name) VALUES ($1, $2) ON CONFLICT DO NOTHING', [
      slot,
      name,
    ]);
    const { rows } = await client.query<{ cursor: unknown; pages: number }>(
      'SELECT cursor, pages::float8 AS pages FROM waltide.pulls WHERE slot_name = $1 AND name = $2',
      [slot, name],
    );
    return rows[0]!;
  } catch (error) {
    throw queryError(error, 'reading waltide.pulls');
  }
}

async function writePage(
  { client, ownSearchPath }: PullSession,
  { slot, name }: PullJob,
  table: PullTable,
  page: PullPage,
  { pages, count }: { readonly pages: number; readonly count: number },
): Promise<void> {
  const statements = statementsOf(page, table);
  try {
    await client.query('BEGIN');
    const { rowCount } = await client.query(
      `UPDATE waltide.pulls SET cursor = $3, pages = pages + 1, row_count = row_count + $5, updated_at = now()
       WHERE slot_name = $1 AND name = $2 AND pages = $4`,
      [slot, name, JSON.stringify(page.cursor), pages, count],
    );
    if (rowCount !== 1)
      throw new WaltideError('RUN_LOST', `another run of "${name}" goes on from here`, 'See `waltide history`.');
    // Triggers count on the role's own.
    await client.query(`SELECT pg_catalog.set_config('search_path', $1, true)`, [ownSearchPath]);
    for (const { text, values } of statements) await client.query(text, [...values]);
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {});
    throw pageError(error, table);
  }
}

function pageError(error: unknown, { schema, table, key }: PullTable): WaltideError {
  if (error instanceof WaltideError) return error;
  const state = sqlState(error) ?? '';
  const { message } = error as Error;
  if (state === NO_CONSTRAINT)
    return new WaltideError(
      'CONFIG_INVALID',
      `${schema}.${table}: no unique constraint is on ${key.join(', ')}`,
      'Add one, or name the columns of another in `key`.',
      { cause: error },
    );
  if (REJECTED.some((one) => state.startsWith(one)))
    return new WaltideError(
      'PULL',
      `${schema}.${table} does not take a page: ${message}`,
      'Nothing of the page was written and the cursor stands before it; correct the module or the table.',
      { cause: error },
    );
  return queryError(error, `writing to ${schema}.${table}`);
}
