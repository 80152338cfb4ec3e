import pg from 'pg';
import { WaltideError } from '../errors.ts';
import { type Lsn, parseLsn } from '../event/lsn.ts';
import { relationName } from '../event/relation.ts';
import { queryError, sqlState } from '../postgres/connection.ts';
import type { KeyText } from '../postgres/snapshots.ts';
import {
  CELL_BYTES_MAX,
  cellOf,
  type Field,
  isPlain,
  keyName,
  ROW_HASH_CHARS,
  rowHash,
  rowTextSql,
  SHORT_BYTES,
} from './row-text.ts';
import type { SourceTable } from './source-table.ts';
import type { Cells, Digest, DigestColumn, KeyRange, RowDigest } from './validation.ts';

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

/** Reads the source for comparison: digests are made by PostgreSQL, every answer is as of one snapshot. */
export class SourceReader {
  readonly #connect: () => Promise<pg.Client>;
  #client: pg.Client | null = null;
  /** Bytes of all answers: what a comparison moves. */
  bytes = 0;

  constructor(connect: () => Promise<pg.Client>) {
    this.#connect = connect;
  }

  /** The session, which is opened when needed, and again after it was lost. */
  async session(): Promise<pg.Client> {
    if (this.#client) return this.#client;
    const client = await this.#connect();
    await client.query(SETTINGS);
    client.on('end', () => {
      if (this.#client === client) this.#client = null;
    });
    this.#client = client;
    return client;
  }

  async close(): Promise<void> {
    const client = this.#client;
    this.#client = null;
    await client?.end().catch(() => {});
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

  async digests(table: SourceTable, ranges: readonly KeyRange[]): Promise<Seen<Digest[]>> {
    const values = new Values();
    const order = table.key.map(({ name }) => escapeIdentifier(name)).join(', ');
    const parts = ranges.map(
      (
        range,
        part,
      ) => `SELECT ${part}, count(*), ${sha256Sql(`string_agg(${shortSql(table, 'r')}, E'\\n')`)}, pg_current_wal_insert_lsn()
        FROM (SELECT ${rowTextSql(fieldsOf(table))} AS r FROM ${fromSql(table)} WHERE ${whereSql(table, range, values)} ORDER BY ${order}) x`,
    );
    const rows = await this.#query(table, parts.join(' UNION ALL '), values);
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

  async #query(table: SourceTable, text: string, values: Values): Promise<unknown[][]> {
    const client = await this.session();
    try {
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
    }
  }

  async #failed(error: unknown, what: string): Promise<WaltideError> {
    const failure = queryError(error, what);
    if (failure.retry) await this.close();
    return failure;
  }
}

/** Parameters of a statement under way. */
class Values {
  readonly list: unknown[] = [];

  /** Its placeholder. */
  add(value: unknown): string {
    this.list.push(value);
    return `$${this.list.length}`;
  }
}

function newest(lsns: readonly unknown[]): Lsn {
  let last: Lsn = 0n;
  for (const lsn of lsns) if (parseLsn(String(lsn)) > last) last = parseLsn(String(lsn));
  return last;
}

const SENDS: Readonly<Record<string, (value: string) => string>> = {
  float4: (value) => `CASE WHEN ${value} = 'NaN' THEN '\\x7fc00000'::bytea ELSE float4send(${value}) END`,
  float8: (value) => `CASE WHEN ${value} = 'NaN' THEN '\\x7ff8000000000000'::bytea ELSE float8send(${value}) END`,
  timestamp: (value) => `timestamp_send(${value})`,
  timestamptz: (value) => `timestamptz_send(${value})`,
};

/**
 * A function's argument is printed by the type's output function, unlike a cast to text, which cuts blanks or adds masks.
 * IS NOT NULL would be false for a composite value with a NULL in it.
 */
const textSql = (value: string): string => `CASE WHEN ${value} IS DISTINCT FROM NULL THEN concat(${value}) END`;

function bytesSql({ isUtf8 }: SourceTable, text: string): string {
  return isUtf8 ? `octet_length(${text})` : `octet_length(convert_to(${text}, 'UTF8'))`;
}

function fieldsOf(table: SourceTable): Field[] {
  return table.columns.map((column: DigestColumn): Field => {
    const value = escapeIdentifier(column.name);
    if (column.form === 'binary') return { plain: true, text: SENDS[column.type.name]!(value), bytes: '' };
    const isText =
      column.type.schema === 'pg_catalog' && (column.type.name === 'text' || column.type.name === 'varchar');
    return { plain: isPlain(column.type), text: value, bytes: bytesSql(table, isText ? value : textSql(value)) };
  });
}

function sha256Sql(text: string): string {
  return `encode(sha256(convert_to(${text}, 'UTF8')), 'hex')`;
}

function shortSql(table: SourceTable, row: string): string {
  return `CASE WHEN ${bytesSql(table, row)} <= ${SHORT_BYTES} THEN ${row} ELSE ${sha256Sql(row)} END`;
}

function cellSql(table: SourceTable, value: string): string {
  const text = textSql(value);
  return `CASE WHEN ${bytesSql(table, text)} > ${CELL_BYTES_MAX} THEN concat('sha256 ', ${sha256Sql(text)}) ELSE ${text} END`;
}

/** ONLY: children of inheritance are tables of their own; partitions are not. */
function fromSql({ published: { kind, schema, table } }: SourceTable): string {
  return `${kind === 'p' ? '' : 'ONLY '}${escapeIdentifier(schema)}.${escapeIdentifier(table)}`;
}

const rowFilters = ({ published: { rowFilter } }: SourceTable): string[] => (rowFilter ? [`(${rowFilter})`] : []);

function filters(table: SourceTable, values: Values): string[] {
  const { since } = table;
  if (!since) return rowFilters(table);
  const from = `CAST(${values.add(since.text)}::text AS ${since.typeSql})`;
  return [...rowFilters(table), `${escapeIdentifier(since.column.name)} >= ${from}`];
}

function whereSql(table: SourceTable, { after, upto }: KeyRange, values: Values): string {
  const names = table.key.map(({ name }) => escapeIdentifier(name));
  const bound = (key: KeyText): string =>
    table.key.map(({ typeSql }, i) => `CAST(${values.add(key[i])}::text AS ${typeSql})`).join(', ');
  const compare = (operator: string, key: KeyText): string =>
    names.length === 1
      ? `${names[0]} ${operator} ${bound(key)}`
      : `ROW(${names.join(', ')}) ${operator} ROW(${bound(key)})`;
  const conditions = [
    ...filters(table, values),
    ...(after ? [compare('>', after)] : []),
    ...(upto ? [compare('<=', upto)] : []),
  ];
  return conditions.length > 0 ? conditions.join(' AND ') : 'true';
}

/** 60 bits of a hash, from a hexadecimal digit on. */
const numberSql = (hash: string, from: number): string => `('x' || substr(${hash}, ${from}, 15))::bit(60)::bigint`;

function bucketSql(table: SourceTable, count: number, values: Values): string {
  const keys = table.key.map(({ name }, i) => `concat(${escapeIdentifier(name)}) AS k${i}`);
  const name = keys.length > 0 ? sha256Sql(`concat_ws(chr(1), ${table.key.map((_, i) => `k${i}`).join(', ')})`) : 'h';
  return `SELECT *, ${numberSql(name, 1)} % ${count} AS bucket FROM (
    SELECT ${[`${sha256Sql(rowTextSql(fieldsOf(table)))} AS h`, ...keys].join(', ')}
    FROM ${fromSql(table)} WHERE ${filters(table, values).join(' AND ') || 'true'} OFFSET 0) y`;
}
