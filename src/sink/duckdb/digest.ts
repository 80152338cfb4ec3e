import type { Connection } from '@duckdb/node-bindings';
import { WaltideError } from '../../errors.ts';
import { type Column, type Relation, relationName } from '../../event/relation.ts';
import type { KeyText } from '../../postgres/snapshots.ts';
import {
  CELL_BYTES_MAX,
  type Field,
  isPlain,
  keyName,
  ROW_HASH_CHARS,
  rowTextSql,
  SHORT_BYTES,
} from '../../validation/row-text.ts';
import type {
  Cells,
  Digest,
  DigestColumn,
  Digestible,
  DigestTable,
  HeldColumn,
  KeyRange,
  Orphan,
  Reference,
  RowDigest,
} from '../../validation/validation.ts';
import { sqlName, type TableName } from './layout.ts';
import type { Target, TargetKind } from './mapping.ts';
import { foldName, quoteName, quoteText, targetSchema } from './names.ts';
import { type SinkColumn, targetOfColumn } from './schema.ts';
import { sourceTextSql } from './source-text.ts';
import { readRows, type SinkTable } from './state.ts';

/** A table of the file, and how to read it. */
export interface Held {
  readonly name: TableName;
  readonly table: SinkTable;
}

/** Gives `work` a connection of its own, in a transaction that only reads. */
export type Reading = <T>(work: (connection: Connection) => Promise<T>, signal: AbortSignal) => Promise<T>;

const BINARY: ReadonlySet<TargetKind> = new Set(['float4', 'float8', 'timestamp', 'timestamptz']);
const ORDERED: ReadonlySet<TargetKind> = new Set([
  ...([
    'bool',
    'int2',
    'int4',
    'int8',
    'uint4',
    'decimal',
    'uuid',
    'date',
    'time',
    'timestamp',
    'timestamptz',
  ] as const),
]);
/** Compared byte by byte in DuckDB, as under the collation "C". */
const TEXTS: ReadonlySet<string> = new Set(['text', 'varchar']);

/** Microseconds from 1970 to 2000, where PostgreSQL's binary timestamps begin. */
const EPOCH_2000_US = '946684800000000';

/** Compares tables of a DuckDB file: digests are made by DuckDB itself, from the very texts that PostgreSQL prints. */
export class DuckdbDigests implements Digestible {
  readonly #held: (relation: Relation) => Held | null;
  readonly #reading: Reading;

  constructor(held: (relation: Relation) => Held | null, reading: Reading) {
    this.#held = held;
    this.#reading = reading;
  }

  async describe(relation: Relation): Promise<ReadonlyMap<string, HeldColumn> | null> {
    const held = this.#held(relation);
    if (!held) return null;
    const columns = new Map<string, HeldColumn>();
    for (const column of relation.columns) {
      const own = columnOf(held, column.name);
      if (own) columns.set(column.name, heldColumn(own, column));
    }
    return columns;
  }

  async digests(table: DigestTable, ranges: readonly KeyRange[], signal: AbortSignal): Promise<Digest[]> {
    const columns = this.#columns(table);
    const { key } = columns;
    const { cuts, parts } = cutsOf(ranges);
    const names = key.map((_, i) => `k${i}`).join(', ');
    const rows = await this.#read(
      `SELECT part, count(*)::VARCHAR, sha256(string_agg(${shortSql('r')}, chr(10) ORDER BY ${names})) FROM (
         SELECT ${partSql(key, cuts, 0)} AS part, ${key.map(({ sql }, i) => `${sql} AS k${i}`).join(', ')},
           ${rowTextSql(columns.fields)} AS r
         FROM ${columns.from} WHERE ${whereSql(columns, ranges)}) GROUP BY part`,
      signal,
    );
    const found = new Map(
      rows.map(([part, count, hash]) => [Number(part), { rows: Number(count), hash: String(hash) }]),
    );
    return parts.map((part) => found.get(part) ?? EMPTY);
  }

  async rowDigests(table: DigestTable, ranges: readonly KeyRange[], signal: AbortSignal): Promise<RowDigest[]> {
    const columns = this.#columns(table);
    const rows = await this.#read(
      `SELECT ${columns.key.map(({ text }) => text).join(', ')}, left(sha256(${rowTextSql(columns.fields)}), ${ROW_HASH_CHARS})
       FROM ${columns.from} WHERE ${whereSql(columns, ranges)}`,
      signal,
    );
    return rows.map((row) => ({ key: row.slice(0, -1).map(String), hash: String(row.at(-1)), copies: 1 }));
  }

  async rows(
    table: DigestTable,
    keys: readonly KeyText[],
    signal: AbortSignal,
  ): Promise<ReadonlyMap<string, readonly Cells[]>> {
    const columns = this.#columns(table);
    const names = columns.key.map((_, i) => `w${i}`);
    const wanted = keys.map((key) => `(${columns.key.map((column, i) => column.literal(key[i]!)).join(', ')})`);
    const rows = await this.#read(
      `SELECT ${[...columns.key, ...columns.all].map(({ text }, i) => (i < columns.key.length ? text : cellSql(text))).join(', ')}
       FROM (VALUES ${wanted.join(', ')}) AS w (${names.join(', ')})
       JOIN ${columns.from} ON ${columns.key.map(({ sql }, i) => `${sql} = w${i}`).join(' AND ')}`,
      signal,
    );
    const found = new Map<string, Cells[]>();
    for (const row of rows) {
      const name = keyName(row.slice(0, columns.key.length).map(String));
      const cells = row.slice(columns.key.length).map((cell) => (cell === null ? null : String(cell)));
      found.set(name, [...(found.get(name) ?? []), cells]);
    }
    return found;
  }

  async buckets(table: DigestTable, count: number, signal: AbortSignal): Promise<Digest[]> {
    const columns = this.#columns(table);
    const rows = await this.#read(
      `SELECT bucket, count(*)::VARCHAR, concat(sum(${numberSql('h', 1)}), ' ', sum(${numberSql('h', 16)}))
       FROM (${bucketSql(columns, count)}) GROUP BY bucket`,
      signal,
    );
    const found = new Map(rows.map(([part, n, hash]) => [Number(part), { rows: Number(n), hash: String(hash) }]));
    return Array.from({ length: count }, (_, bucket) => found.get(bucket) ?? EMPTY);
  }

  async bucketRows(
    table: DigestTable,
    count: number,
    buckets: readonly number[],
    signal: AbortSignal,
  ): Promise<RowDigest[]> {
    const columns = this.#columns(table);
    const names = ['h', ...columns.key.map((_, i) => `k${i}`)].join(', ');
    const rows = await this.#read(
      `SELECT count(*)::VARCHAR, ${names}
       FROM (${bucketSql(columns, count)}) WHERE bucket IN (${buckets.map(Number).join(', ')}) GROUP BY ${names}`,
      signal,
    );
    return rows.map(([copies, hash, ...key]) => ({
      key: key.map(String),
      hash: String(hash).slice(0, ROW_HASH_CHARS),
      copies: Number(copies),
    }));
  }

  async orphans({ from, columns, to, toColumns }: Reference, max: number, signal: AbortSignal): Promise<Orphan[]> {
    const [child, parent] = [this.#held(from), this.#held(to)];
    if (!child || !parent) return [];
    const texts = columns.map((name) => {
      const own = columnOf(child, name);
      return own ? sourceTextSql(targetOfColumn(own), `c.${quoteName(name)}`) : `NULL`;
    });
    const meets = columns.map((name, i) => `p.${quoteName(toColumns[i]!)} = c.${quoteName(name)}`);
    const rows = await this.#read(
      `SELECT count(*)::VARCHAR, ${texts.map((text, i) => `${text} AS k${i}`).join(', ')} FROM ${sqlName(child.name)} AS c
       WHERE ${columns.map((name) => `c.${quoteName(name)} IS NOT NULL`).join(' AND ')}
         AND NOT EXISTS (SELECT 1 FROM ${sqlName(parent.name)} AS p WHERE ${meets.join(' AND ')})
       GROUP BY ALL LIMIT ${max}`,
      signal,
    );
    return rows.map(([count, ...key]) => ({ key: key.map(String), rows: Number(count) }));
  }

  #read(sql: string, signal: AbortSignal): Promise<unknown[][]> {
    return this.#reading((connection) => readRows(connection, sql), signal);
  }

  #columns(table: DigestTable): ReadColumns {
    const held = this.#held(table.relation);
    if (!held) throw changed(table, 'it is not held any more');
    return readColumns(held, table);
  }
}

const EMPTY: Digest = { rows: 0, hash: '' };

interface ReadColumn {
  readonly sql: string;
  /** PostgreSQL's text of the value. */
  readonly text: string;
  readonly literal: (text: string) => string;
}

interface ReadColumns {
  readonly from: string;
  readonly key: readonly ReadColumn[];
  readonly all: readonly ReadColumn[];
  readonly fields: readonly Field[];
  readonly since: string | null;
}

function columnOf({ table }: Held, name: string): SinkColumn | undefined {
  return table.live?.columns.find((column) => column.live && foldName(column.name) === foldName(name));
}

function heldColumn(own: SinkColumn, { type }: Column): HeldColumn {
  const { kind } = targetOfColumn(own);
  const isText = kind === 'text' && type.schema === 'pg_catalog' && TEXTS.has(type.name);
  return { form: BINARY.has(kind) ? 'binary' : 'text', ordered: ORDERED.has(kind) || isText };
}

function changed({ relation }: DigestTable, why: string): WaltideError {
  return new WaltideError(
    'TABLE_CHANGED',
    `${relationName(relation)} changed while it was compared: ${why}`,
    'It is compared again.',
  );
}

function readColumns(held: Held, table: DigestTable): ReadColumns {
  const target = (column: DigestColumn): Target => {
    const own = columnOf(held, column.name);
    if (!own) throw changed(table, `column "${column.name}" is gone`);
    const found = targetOfColumn(own);
    if (column.form === 'binary' && !BINARY.has(found.kind))
      throw changed(table, `column "${column.name}" is text now`);
    return found;
  };
  const read = (column: DigestColumn): ReadColumn => {
    const of = target(column);
    const sql = quoteName(column.name);
    return { sql, text: sourceTextSql(of, sql), literal: (text) => literalSql(of, text) };
  };
  const field = (column: DigestColumn): Field => {
    const text = column.form === 'binary' ? binarySql(target(column), quoteName(column.name)) : read(column).text;
    return { plain: isPlain(column.type), text, bytes: `strlen(${text})` };
  };
  const since = table.since && { ...read(table.since.column), value: table.since.text };
  return {
    from: sqlName(held.name),
    key: table.key.map(read),
    all: table.columns.map(read),
    fields: table.columns.map(field),
    since: since && `${since.sql} >= ${since.literal(since.value)}`,
  };
}

/** What PostgreSQL's send function gives, in hexadecimal. */
function binarySql({ kind }: Target, value: string): string {
  const hex = (bits: string): string => `concat('\\x', lower(hex(CAST(CAST(${bits} AS BIT) AS BLOB))))`;
  const base =
    kind === 'float4' || kind === 'float8'
      ? `WHEN isnan(${value}) THEN '\\x${kind === 'float4' ? '7fc00000' : '7ff8000000000000'}' ELSE ${hex(value)}`
      : `WHEN NOT isinf(${value}) THEN ${hex(`epoch_us(${value}) - ${EPOCH_2000_US}`)}
         WHEN ${value} > 'epoch' THEN '\\x7fffffffffffffff' ELSE '\\x8000000000000000'`;
  return `CASE WHEN ${value} IS NULL THEN NULL ${base} END`;
}

/** DuckDB writes the era after the date. */
function literalSql({ sql }: Target, text: string): string {
  return `CAST(${quoteText(text.replace(/^(\S+)(.*) BC$/, '$1 (BC)$2'))} AS ${sql})`;
}

function afterSql(key: readonly ReadColumn[], values: KeyText): string {
  const terms = key.map(({ sql, literal }, i) => {
    const equal = key.slice(0, i).map((column, j) => `${column.sql} = ${column.literal(values[j]!)}`);
    return `(${[...equal, `${sql} > ${literal(values[i]!)}`].join(' AND ')})`;
  });
  return `(${terms.join(' OR ')})`;
}

/** The bounds of ranges in rising order, and for each range the number of bounds below it: gaps between them count, too. */
function cutsOf(ranges: readonly KeyRange[]): { readonly cuts: readonly KeyText[]; readonly parts: readonly number[] } {
  const cuts: KeyText[] = [];
  const parts = ranges.map(({ after, upto }) => {
    if (after && (cuts.length === 0 || cuts.at(-1)!.join('\0') !== after.join('\0'))) cuts.push(after);
    const part = cuts.length;
    if (upto) cuts.push(upto);
    return part;
  });
  return { cuts, parts };
}

/** Ranges that adjoin are one condition; the whole is bounded besides, by which DuckDB leaves out row groups. */
function whereSql({ key, since }: ReadColumns, ranges: readonly KeyRange[]): string {
  const spans: { after: KeyText | null; upto: KeyText | null }[] = [];
  for (const { after, upto } of ranges) {
    const last = spans.at(-1);
    if (last?.upto && after && last.upto.join('\0') === after.join('\0')) last.upto = upto;
    else spans.push({ after, upto });
  }
  const [first] = key;
  const [least, most] = [spans[0]!.after, spans.at(-1)!.upto];
  const inside = spans.map(({ after, upto }) =>
    [...(after ? [afterSql(key, after)] : []), ...(upto ? [`NOT ${afterSql(key, upto)}`] : [])].join(' AND '),
  );
  const conditions = [
    ...(least ? [`${first!.sql} >= ${first!.literal(least[0]!)}`] : []),
    ...(most ? [`${first!.sql} <= ${first!.literal(most[0]!)}`] : []),
    ...(inside.includes('') ? [] : [`(${inside.map((span) => `(${span})`).join(' OR ')})`]),
    ...(since ? [since] : []),
  ];
  return conditions.length > 0 ? conditions.join(' AND ') : 'true';
}

/** The number of the range that a row lies in: a search by halves. */
function partSql(key: readonly ReadColumn[], bounds: readonly KeyText[], from: number): string {
  if (bounds.length === 0) return String(from);
  const middle = bounds.length >> 1;
  const above = partSql(key, bounds.slice(middle + 1), from + middle + 1);
  return `CASE WHEN ${afterSql(key, bounds[middle]!)} THEN ${above} ELSE ${partSql(key, bounds.slice(0, middle), from)} END`;
}

const shortSql = (row: string): string =>
  `CASE WHEN strlen(${row}) <= ${SHORT_BYTES} THEN ${row} ELSE sha256(${row}) END`;

/** 60 bits of a hash, from a hexadecimal digit on. */
const numberSql = (hash: string, from: number): string => `CAST(concat('0x', substr(${hash}, ${from}, 15)) AS BIGINT)`;

function cellSql(text: string): string {
  return `CASE WHEN strlen(${text}) > ${CELL_BYTES_MAX} THEN concat('sha256 ', sha256(${text})) ELSE ${text} END`;
}

function bucketSql({ from, key, fields, since }: ReadColumns, count: number): string {
  const keys = key.map(({ text }, i) => `${text} AS k${i}`);
  const name = key.length > 0 ? `sha256(concat_ws(chr(1), ${key.map((_, i) => `k${i}`).join(', ')}))` : 'h';
  return `SELECT *, ${numberSql(name, 1)} % ${count} AS bucket FROM (
    SELECT ${[`sha256(${rowTextSql(fields)}) AS h`, ...keys].join(', ')} FROM ${from} WHERE ${since ?? 'true'})`;
}

/** Where a source table lies in the file. */
export function heldName(
  catalog: string,
  { schema, table }: { readonly schema: string; readonly table: string },
): TableName {
  return { catalog, schema: targetSchema(schema), table };
}
