import {
  DuckDBDataChunk,
  DuckDBDateValue,
  DuckDBTimestampTZValue,
  type DuckDBValueConverter,
  type Json,
  JsonDuckDBValueConverter,
} from '@duckdb/node-api';
import duckdb, { type Connection, type ExtractedStatements, type Result } from '@duckdb/node-bindings';
import { messageOf, WaltideError } from '../../errors.ts';
import type { QueryResult } from '../sink.ts';

const READS = new Set<number>([duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN]);

const queryError = (message: string, help: string, cause?: unknown): WaltideError =>
  new WaltideError('SINK_QUERY', message, help, { cause });

export interface QueryLimits {
  readonly rowsMax: number;
  readonly timeoutMs: number;
  /** The sink closes. */
  readonly signal: AbortSignal;
}

/**
 * Runs one reading statement on a connection of its own, in a transaction that DuckDB itself keeps read-only. Values are
 * JSON: numbers where they are exact, else strings. Throws SINK_QUERY for anything that writes, fails or takes longer.
 */
export async function runQuery(connection: Connection, sql: string, limits: QueryLimits): Promise<QueryResult> {
  const deadline = AbortSignal.any([limits.signal, AbortSignal.timeout(limits.timeoutMs)]);
  try {
    return await readOnly(connection, deadline, () => read(connection, sql, limits.rowsMax, deadline));
  } catch (error) {
    if (limits.signal.aborted) throw queryError('the sink was closed while the query ran', 'Try again.', error);
    if (deadline.aborted)
      throw queryError(
        `the query took longer than ${limits.timeoutMs} ms`,
        'Narrow the query or give it more time.',
        error,
      );
    if (error instanceof WaltideError) throw error;
    throw queryError(
      messageOf(error),
      'Correct the query; the names of tables are those of the source, with `public` as `main`.',
      error,
    );
  }
}

/** Does `work` in a transaction that DuckDB itself keeps read-only, and interrupts it once `signal` aborts. */
export async function readOnly<T>(connection: Connection, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  // Repeated, since a query that has only just begun may miss one interrupt.
  const timer = setInterval(() => signal.aborted && duckdb.interrupt(connection), 20);
  try {
    await duckdb.query(connection, 'BEGIN TRANSACTION READ ONLY');
    return await work();
  } finally {
    clearInterval(timer);
    await duckdb.query(connection, 'ROLLBACK').catch(() => undefined);
  }
}

async function read(connection: Connection, sql: string, rowsMax: number, deadline: AbortSignal): Promise<QueryResult> {
  const refused = 'Only one SELECT, EXPLAIN, SHOW or DESCRIBE at a time can be run here.';
  const extracted = await duckdb.extract_statements(connection, sql);
  if (extracted.statement_count === 0) {
    const wrong = syntaxError(extracted.extracted_statements);
    if (wrong === null) throw queryError('the query is empty', 'Write one, such as: select count(*) from orders.');
    throw queryError(wrong, 'Correct the query: it is read by DuckDB.');
  }
  if (extracted.statement_count !== 1)
    throw queryError(`the query holds ${extracted.statement_count} statements`, refused);
  const statement = await duckdb.prepare_extracted_statement(connection, extracted.extracted_statements, 0);
  if (!READS.has(duckdb.prepared_statement_type(statement))) {
    duckdb.destroy_prepare_sync(statement);
    throw queryError('the query does more than read', refused);
  }
  const pending = duckdb.pending_prepared_streaming(statement);
  let result: Result | null = null;
  try {
    result = await duckdb.execute_pending(pending);
    return await fetchRows(result, rowsMax, deadline);
  } finally {
    // What is left to the garbage collector keeps the file open, and locked, until it comes by.
    duckdb.destroy_prepare_sync(statement);
    if (result) await drain(connection, result);
  }
}

/** Null where nothing is wrong with it but that it is empty: the binding then throws, having no text to give. */
function syntaxError(statements: ExtractedStatements): string | null {
  try {
    return duckdb.extract_statements_error(statements);
  } catch {
    return null;
  }
}

/** The library's own, but for infinite dates, which it takes for days of the calendar. */
const toJsonValue: DuckDBValueConverter<Json> = (value, type, converter) => {
  if (!(value instanceof DuckDBDateValue) || value.isFinite) return JsonDuckDBValueConverter(value, type, converter);
  return value.days > 0 ? 'infinity' : '-infinity';
};

/** A result is held whole, in this process and in the one that asked. */
const RESULT_BYTES_MAX = 32 * 2 ** 20;

async function fetchRows(result: Result, rowsMax: number, deadline: AbortSignal): Promise<QueryResult> {
  const columns = Array.from({ length: duckdb.column_count(result) }, (_, index) => duckdb.column_name(result, index));
  // The session's zone is UTC; without this the converter would use the one of this process.
  DuckDBTimestampTZValue.timezoneOffsetInMinutes = 0;
  const rows: unknown[][] = [];
  let bytes = 0;
  while (rows.length <= rowsMax) {
    const chunk = await duckdb.fetch_chunk(result);
    deadline.throwIfAborted();
    if (!chunk || duckdb.data_chunk_get_size(chunk) === 0) break;
    for (const row of new DuckDBDataChunk(chunk).convertRows(toJsonValue)) {
      rows.push(row);
      for (const value of row) bytes += typeof value === 'string' ? value.length : 16;
    }
    if (bytes > RESULT_BYTES_MAX)
      throw queryError(
        `the result is larger than ${RESULT_BYTES_MAX / 2 ** 20} MB`,
        'Ask for fewer rows or columns, or for aggregates.',
      );
  }
  return { columns, rows: rows.slice(0, rowsMax), truncated: rows.length > rowsMax };
}

/** Ends a result that was not read to its end: interrupted, it fails within a few chunks, and lets go of the file. */
async function drain(connection: Connection, result: Result): Promise<void> {
  try {
    for (;;) {
      duckdb.interrupt(connection);
      const chunk = await duckdb.fetch_chunk(result);
      if (!chunk || duckdb.data_chunk_get_size(chunk) === 0) return;
    }
  } catch {
    // That is how an interrupted result ends.
  }
}
