import pg from 'pg';
import { WaltideError } from '../errors.ts';
import { type Lsn, parseLsn } from '../event/lsn.ts';
import { relationName } from '../event/relation.ts';
import { queryError, sqlState } from '../postgres/connection.ts';
import type { KeyText } from '../postgres/snapshots.ts';
import { boundsSql, rangeDigestsSql } from './range-sql.ts';
import { cellOf, keyName, ROW_HASH_CHARS, rowHash, rowTextSql } from './row-text.ts';
import {
  bucketSql,
  cellSql,
  fieldsOf,
  fromSql,
  numberSql,
  rowFilters,
  sha256Sql,
  textSql,
  Values,
  whereSql,
} from './source-sql.ts';
import type { SourceTable } from './source-table.ts';
import type { Cells, Digest, KeyRange, RowDigest } from './validation.ts';

const { escapeIdentifier } = pg;

/** What was read, and an LSN before which everything that the read saw was committed. */
export interface Seen<T> {
  readonly found: T;
  readonly lsn: Lsn;
}

/** A row, and what tells this version of it from any other. */
export interface SourceRow {
  readonly cells: Cells;
  readonly version: string;
}

/** Of sessions that digest: ranges are read by their index, in its order, however few rows the planner thinks there are. */
const SETTINGS = `SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off; SET row_security = off;
  SET max_parallel_workers_per_gather = 0; SET default_transaction_read_only = on`;

interface Session {
  readonly client: Promise<pg.Client>;
  /** Statements that are under way or wait for it. */
  queries: number;
}

/**
 * Reads the source for comparison: digests are made by PostgreSQL, every answer is as of one snapshot. Digests of ranges
 * are spread over sessions, at most `sessionsMax` of them; all else is asked of the first.
 */
export class SourceReader {
  readonly #connect: () => Promise<pg.Client>;
  readonly sessionsMax: number;
  #openMax: number;
  #sessions: Session[] = [];
  /** Bytes of all answers: what a comparison moves. */
  bytes = 0;

  constructor(connect: () => Promise<pg.Client>, sessionsMax = 1) {
    this.#connect = connect;
    this.sessionsMax = sessionsMax;
    this.#openMax = sessionsMax;
  }

  /** The first session, which is opened when needed, and again after it was lost. */
  session(): Promise<pg.Client> {
    return (this.#sessions[0] ?? this.#open()).client;
  }

  async close(): Promise<void> {
    const sessions = this.#sessions;
    this.#sessions = [];
    await Promise.all(
      sessions.map(({ client }) =>
        client.then(
          (opened) => opened.end().catch(() => {}),
          () => {},
        ),
      ),
    );
  }

  #open(): Session {
    const session: Session = { client: this.#connected(() => this.#forget(session)), queries: 0 };
    session.client.catch(() => this.#forget(session));
    this.#sessions.push(session);
    return session;
  }

  async #connected(onEnd: () => void): Promise<pg.Client> {
    const client = await this.#connect();
    client.on('end', onEnd);
    try {
      await client.query(SETTINGS);
    } catch (error) {
      await client.end().catch(() => {});
      throw error;
    }
    return client;
  }

  #forget(session: Session): void {
    this.#sessions = this.#sessions.filter((one) => one !== session);
  }

  /** Where the server takes no more sessions, those that are open do. */
  async #oneOfMany(): Promise<Session> {
    const session = this.#leastBusy();
    session.queries++;
    try {
      await session.client;
      return session;
    } catch (error) {
      this.#forget(session);
      if (this.#sessions.length === 0) throw queryError(error, 'opening a session for validation');
      this.#openMax = this.#sessions.length;
      return this.#leastBusy();
    } finally {
      session.queries--;
    }
  }

  /** An idle session, a new one where there may be one more, or the one with the least to do. */
  #leastBusy(): Session {
    const [least] = [...this.#sessions].sort((a, b) => a.queries - b.queries);
    return least && (least.queries === 0 || this.#sessions.length >= this.#openMax) ? least : this.#open();
  }

  /**
   * Of each range the keys that end `rowsPer` rows each, for the first `max` parts of it; fewer where its rows run out.
   */
  async splits(
    table: SourceTable,
    ranges: readonly { readonly range: KeyRange; readonly rowsPer: number }[],
    max: number,
  ): Promise<KeyText[][]> {
    const values = new Values();
    const names = table.key.map(({ name }) => escapeIdentifier(name));
    const order = names.join(', ');
    const parts = ranges.map(
      (
        { range, rowsPer },
        part,
      ) => `SELECT ${part} AS part, n, ${table.key.map((_, i) => `concat(k${i})`).join(', ')} FROM (
         SELECT ${names.map((name, i) => `${name} AS k${i}`).join(', ')}, row_number() OVER (ORDER BY ${order}) AS n
         FROM ${fromSql(table)} WHERE ${whereSql(table, range, values)} ORDER BY ${order} LIMIT ${rowsPer * max}) x
       WHERE n % ${rowsPer} = 0`,
    );
    const found: KeyText[][] = ranges.map(() => []);
    const rows = await this.#query(table, `${parts.join(' UNION ALL ')} ORDER BY part, n`, values);
    for (const [part, , ...key] of rows) found[Number(part)]!.push(key.map(String));
    return found;
  }

  /** The keys that end `rowsPer` rows each, from `after` on, at most `max`; fewer where the rows run out. */
  async bounds(table: SourceTable, after: KeyText | null, rowsPer: number, max: number): Promise<KeyText[]> {
    const values = new Values();
    const rows = await this.#query(table, boundsSql(table, after, rowsPer, max, values), values);
    return rows.map((key) => key.map(String));
  }

  async digests(table: SourceTable, ranges: readonly KeyRange[]): Promise<Seen<Digest[]>> {
    const values = new Values();
    const rows = await this.#query(table, rangeDigestsSql(table, ranges, values), values, await this.#oneOfMany());
    const found: Digest[] = ranges.map(() => ({ rows: 0, hash: '' }));
    for (const [part, count, hash] of rows) found[Number(part)] = { rows: Number(count), hash: String(hash ?? '') };
    return { found, lsn: newest(rows.map((row) => row[3])) };
  }

  async rowDigests(table: SourceTable, ranges: readonly KeyRange[]): Promise<Seen<RowDigest[]>> {
    const values = new Values();
    const keys = table.key.map(({ name }) => `concat(${escapeIdentifier(name)})`);
    const hash = `left(${sha256Sql(rowTextSql(fieldsOf(table)))}, ${ROW_HASH_CHARS})`;
    const parts = ranges.map(
      (range) => `SELECT ${keys.join(', ')}, ${hash}, pg_current_wal_insert_lsn()
        FROM ${fromSql(table)} WHERE ${whereSql(table, range, values)}`,
    );
    const rows = await this.#query(table, parts.join(' UNION ALL '), values);
    const found = rows.map((row) => ({
      key: row.slice(0, keys.length).map(String),
      hash: String(row[keys.length]),
      copies: 1,
    }));
    return { found, lsn: newest(rows.map((row) => row.at(-1))) };
  }

  /** Digests of nothing but the masked columns, made here of what leaves the source. */
  async maskedDigests(table: SourceTable, range: KeyRange): Promise<Seen<RowDigest[]>> {
    const values = new Values();
    const names = [...table.key, ...table.masked].map(({ name }) => textSql(escapeIdentifier(name)));
    const rows = await this.#query(
      table,
      `SELECT pg_current_wal_insert_lsn(), ${names.join(', ')} FROM ${fromSql(table)} WHERE ${whereSql(table, range, values)}`,
      values,
    );
    const found = rows.map(([, ...row]) => {
      const texts = table.masked.map(({ mask }, i) => {
        const text = row[table.key.length + i];
        return text === null ? null : mask(String(text));
      });
      return { key: row.slice(0, table.key.length).map(String), hash: rowHash(texts), copies: 1 };
    });
    return { found, lsn: newest(rows.map(([lsn]) => lsn)) };
  }

  async rows(table: SourceTable, wanted: readonly KeyText[]): Promise<Seen<ReadonlyMap<string, SourceRow>>> {
    const values = new Values();
    const { key, columns, masked } = table;
    const lists = key.map((_, i) => `${values.add(wanted.map((one) => one[i]!))}::text[]`);
    const conditions = key.map(
      ({ name, typeSql }, i) => `t.${escapeIdentifier(name)} = CAST(w.waltide_${i} AS ${typeSql})`,
    );
    const cells = [
      ...columns.map((column) => cellSql(table, `t.${escapeIdentifier(column.name)}`)),
      ...masked.map((column) => textSql(`t.${escapeIdentifier(column.name)}`)),
    ];
    // A row for what is not there, too, so that the answer has an LSN.
    const rows = await this.#query(
      table,
      `SELECT pg_current_wal_insert_lsn(), concat(t.tableoid, ' ', t.ctid, ' ', t.xmin), ${key.map(({ name }) => `concat(t.${escapeIdentifier(name)})`).join(', ')}${['', ...cells].join(', ')}
       FROM unnest(${lists.join(', ')}) AS w (${key.map((_, i) => `waltide_${i}`).join(', ')})
       LEFT JOIN ${fromSql(table)} AS t ON ${[...conditions, ...rowFilters(table)].join(' AND ')}`,
      values,
    );
    const found = new Map<string, SourceRow>();
    for (const [, version, ...row] of rows) {
      // Of no row nothing is printed but the blanks.
      if (String(version).trim() === '') continue;
      const texts = row.slice(key.length).map((cell, i) => {
        const text = cell === null ? null : String(cell);
        return i < columns.length || text === null ? text : cellOf(masked[i - columns.length]!.mask(text));
      });
      found.set(keyName(row.slice(0, key.length).map(String)), { version: String(version), cells: texts });
    }
    return { found, lsn: newest(rows.map(([lsn]) => lsn)) };
  }

  /** Keys of so many rows, chosen at random. */
  async sample(table: SourceTable, count: number): Promise<KeyText[]> {
    const { estimatedRows } = table.published;
    // Twice as many as needed, since the planner's guess may be old.
    const percent = Math.min(100, (count * 200) / Math.max(estimatedRows, 1));
    const from = percent >= 50 ? fromSql(table) : `${fromSql(table)} TABLESAMPLE BERNOULLI (${percent})`;
    const where = rowFilters(table).join(' AND ') || 'true';
    const keys = table.key.map(({ name }) => `concat(${escapeIdentifier(name)})`).join(', ');
    const values = new Values();
    const sql = `SELECT ${keys} FROM ${from} WHERE ${where} ORDER BY random() LIMIT ${values.add(count)}`;
    return (await this.#query(table, sql, values)).map((row) => row.map(String));
  }

  /** The key as the server prints it: `042` of an integer is `42`. */
  async printedKey(table: SourceTable, key: KeyText): Promise<KeyText> {
    const values = new Values();
    const texts = table.key.map(({ typeSql }, i) => `concat(CAST(${values.add(key[i])}::text AS ${typeSql}))`);
    const [row] = await this.#query(table, `SELECT ${texts.join(', ')}`, values);
    return row!.map(String);
  }

  async buckets(table: SourceTable, count: number): Promise<Seen<Digest[]>> {
    const values = new Values();
    const rows = await this.#query(
      table,
      `SELECT bucket, count(*), concat(sum(${numberSql('h', 1)}), ' ', sum(${numberSql('h', 16)})), pg_current_wal_insert_lsn()
       FROM (${bucketSql(table, count, values)}) x GROUP BY bucket`,
      values,
    );
    const found: Digest[] = Array.from({ length: count }, () => ({ rows: 0, hash: '' }));
    for (const [bucket, n, hash] of rows) found[Number(bucket)] = { rows: Number(n), hash: String(hash) };
    return { found, lsn: newest(rows.map((row) => row[3])) };
  }

  async bucketRows(table: SourceTable, count: number, buckets: readonly number[]): Promise<Seen<RowDigest[]>> {
    const values = new Values();
    const names = ['h', ...table.key.map((_, i) => `k${i}`)].join(', ');
    const rows = await this.#query(
      table,
      `SELECT pg_current_wal_insert_lsn(), count(*), ${names} FROM (${bucketSql(table, count, values)}) x
       WHERE bucket = ANY (${values.add(buckets)}::int8[]) GROUP BY ${names}`,
      values,
    );
    const found = rows.map(([, copies, hash, ...key]) => ({
      key: key.map(String),
      hash: String(hash).slice(0, ROW_HASH_CHARS),
      copies: Number(copies),
    }));
    return { found, lsn: newest(rows.map(([lsn]) => lsn)) };
  }

  /** An LSN before which everything lies that has been committed by now. */
  async now(): Promise<Lsn> {
    const client = await this.session();
    try {
      const { rows } = await client.query<{ lsn: string }>('SELECT pg_current_wal_insert_lsn()::text AS lsn');
      return parseLsn(rows[0]!.lsn);
    } catch (error) {
      throw await this.#failed(error, 'reading the WAL position');
    }
  }

  async #query(
    table: SourceTable,
    text: string,
    values: Values,
    session: Session = this.#sessions[0] ?? this.#open(),
  ): Promise<unknown[][]> {
    session.queries++;
    try {
      const client = await session.client;
      const { rows } = await client.query<unknown[]>({ text, values: values.list, rowMode: 'array' });
      for (const row of rows) for (const cell of row) this.bytes += typeof cell === 'string' ? cell.length : 8;
      return rows;
    } catch (error) {
      if (['42703', '42P01', '42883'].includes(sqlState(error) ?? ''))
        throw new WaltideError(
          'TABLE_CHANGED',
          `${relationName(table.relation)} changed while it was compared: ${(error as Error).message}`,
          'It is compared again.',
          { cause: error },
        );
      throw await this.#failed(error, `comparing ${relationName(table.relation)}`);
    } finally {
      session.queries--;
    }
  }

  async #failed(error: unknown, what: string): Promise<WaltideError> {
    const failure = queryError(error, what);
    if (failure.retry) await this.close();
    return failure;
  }
}

function newest(lsns: readonly unknown[]): Lsn {
  let last: Lsn = 0n;
  for (const lsn of lsns) if (parseLsn(String(lsn)) > last) last = parseLsn(String(lsn));
  return last;
}
