import { WaltideError } from '../../errors.ts';
import { type Column, relationName } from '../../event/relation.ts';
import type { KeyText } from '../../postgres/snapshots.ts';
import { CELL_BYTES_MAX, type Field, isPlain, rowTextSql } from '../../validation/row-text.ts';
import type { Digest, DigestColumn, DigestTable, HeldColumn, KeyRange } from '../../validation/validation.ts';
import { sqlName, type TableName } from './layout.ts';
import { stripDomain, type Target, type TargetKind } from './mapping.ts';
import { foldName, quoteName, quoteText } from './names.ts';
import type { Packing } from './packing.ts';
import { packingOf } from './packing-fixed.ts';
import { type SinkColumn, targetOfColumn } from './schema.ts';
import { sourceTextSql } from './source-text.ts';
import type { SinkTable } from './state.ts';

/** A table of the file, and how to read it. */
export interface Held {
  readonly name: TableName;
  readonly table: SinkTable;
}

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

export const EMPTY: Digest = { rows: 0, hash: '' };

export interface ReadColumn {
  readonly sql: string;
  /** PostgreSQL's text of the value. */
  readonly text: string;
  readonly literal: (text: string) => string;
  /** How its values are written in a range's digest; null for its text. */
  readonly packing: Packing | null;
}

export interface ReadColumns {
  readonly from: string;
  readonly key: readonly ReadColumn[];
  readonly all: readonly ReadColumn[];
  readonly fields: readonly Field[];
  readonly since: string | null;
}

export function columnOf({ table }: Held, name: string): SinkColumn | undefined {
  return table.live?.columns.find((column) => column.live && foldName(column.name) === foldName(name));
}

export function heldColumn(own: SinkColumn, { type, modifier }: Column): HeldColumn {
  const target = targetOfColumn(own);
  const { kind } = target;
  const base = stripDomain(type, modifier).type;
  const sent = base.kind === 'base' && base.schema === 'pg_catalog' && packingOf(base.name, target) !== null;
  const isText = kind === 'text' && type.schema === 'pg_catalog' && TEXTS.has(type.name);
  return { form: BINARY.has(kind) ? 'binary' : 'text', sent, ordered: ORDERED.has(kind) || isText };
}

export function changed({ relation }: DigestTable, why: string): WaltideError {
  return new WaltideError(
    'TABLE_CHANGED',
    `${relationName(relation)} changed while it was compared: ${why}`,
    'It is compared again.',
  );
}

export function readColumns(held: Held, table: DigestTable): ReadColumns {
  const target = (column: DigestColumn): Target => {
    const own = columnOf(held, column.name);
    if (!own) throw changed(table, `column "${column.name}" is gone`);
    const found = targetOfColumn(own);
    if (column.form === 'binary' && !BINARY.has(found.kind))
      throw changed(table, `column "${column.name}" is text now`);
    if (column.sent && !packingOf(column.type.name, found))
      throw changed(table, `column "${column.name}" is of another type now`);
    return found;
  };
  const read = (column: DigestColumn): ReadColumn => {
    const of = target(column);
    const sql = quoteName(column.name);
    return {
      sql,
      text: sourceTextSql(of, sql),
      literal: (text) => literalSql(of, text),
      packing: column.sent ? packingOf(column.type.name, of) : null,
    };
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
export function cutsOf(ranges: readonly KeyRange[]): {
  readonly cuts: readonly KeyText[];
  readonly parts: readonly number[];
} {
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
export function whereSql({ key, since }: ReadColumns, ranges: readonly KeyRange[]): string {
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
export function partSql(key: readonly ReadColumn[], bounds: readonly KeyText[], from: number): string {
  if (bounds.length === 0) return String(from);
  const middle = bounds.length >> 1;
  const above = partSql(key, bounds.slice(middle + 1), from + middle + 1);
  return `CASE WHEN ${afterSql(key, bounds[middle]!)} THEN ${above} ELSE ${partSql(key, bounds.slice(0, middle), from)} END`;
}

/** 60 bits of a hash, from a hexadecimal digit on. */
export const numberSql = (hash: string, from: number): string =>
  `CAST(concat('0x', substr(${hash}, ${from}, 15)) AS BIGINT)`;

export function cellSql(text: string): string {
  return `CASE WHEN strlen(${text}) > ${CELL_BYTES_MAX} THEN concat('sha256 ', sha256(${text})) ELSE ${text} END`;
}

export function bucketSql({ from, key, fields, since }: ReadColumns, count: number): string {
  const keys = key.map(({ text }, i) => `${text} AS k${i}`);
  const name = key.length > 0 ? `sha256(concat_ws(chr(1), ${key.map((_, i) => `k${i}`).join(', ')}))` : 'h';
  return `SELECT *, ${numberSql(name, 1)} % ${count} AS bucket FROM (
    SELECT ${[`sha256(${rowTextSql(fields)}) AS h`, ...keys].join(', ')} FROM ${from} WHERE ${since ?? 'true'})`;
}
