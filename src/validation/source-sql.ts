import pg from 'pg';
import type { KeyText } from '../postgres/snapshots.ts';
import { CELL_BYTES_MAX, type Field, isPlain, rowTextSql } from './row-text.ts';
import type { SourceTable } from './source-table.ts';
import type { DigestColumn, KeyRange } from './validation.ts';

const { escapeIdentifier } = pg;

/* What PostgreSQL is asked, as text: pieces that several statements share. */

/** Parameters of a statement under way. */
export class Values {
  readonly list: unknown[] = [];

  /** Its placeholder. */
  add(value: unknown): string {
    this.list.push(value);
    return `$${this.list.length}`;
  }
}

export const SENDS: Readonly<Record<string, (value: string) => string>> = {
  float4: (value) => `CASE WHEN ${value} = 'NaN' THEN '\\x7fc00000'::bytea ELSE float4send(${value}) END`,
  float8: (value) => `CASE WHEN ${value} = 'NaN' THEN '\\x7ff8000000000000'::bytea ELSE float8send(${value}) END`,
  timestamp: (value) => `timestamp_send(${value})`,
  timestamptz: (value) => `timestamptz_send(${value})`,
};

/**
 * A function's argument is printed by the type's output function, unlike a cast to text, which cuts blanks or adds masks.
 * IS NOT NULL would be false for a composite value with a NULL in it.
 */
export const textSql = (value: string): string => `CASE WHEN ${value} IS DISTINCT FROM NULL THEN concat(${value}) END`;

export function bytesSql({ isUtf8 }: SourceTable, text: string): string {
  return isUtf8 ? `octet_length(${text})` : `octet_length(convert_to(${text}, 'UTF8'))`;
}

/** Prints as it is. */
export const isText = ({ type }: DigestColumn): boolean =>
  type.schema === 'pg_catalog' && (type.name === 'text' || type.name === 'varchar');

export function fieldsOf(table: SourceTable): Field[] {
  return table.columns.map((column: DigestColumn): Field => {
    const value = escapeIdentifier(column.name);
    if (column.form === 'binary') return { plain: true, text: SENDS[column.type.name]!(value), bytes: '' };
    return {
      plain: isPlain(column.type),
      text: value,
      bytes: bytesSql(table, isText(column) ? value : textSql(value)),
    };
  });
}

export function sha256Sql(text: string): string {
  return `encode(sha256(convert_to(${text}, 'UTF8')), 'hex')`;
}

export function cellSql(table: SourceTable, value: string): string {
  const text = textSql(value);
  return `CASE WHEN ${bytesSql(table, text)} > ${CELL_BYTES_MAX} THEN concat('sha256 ', ${sha256Sql(text)}) ELSE ${text} END`;
}

/** ONLY: children of inheritance are tables of their own; partitions are not. */
export function fromSql({ published: { kind, schema, table } }: SourceTable): string {
  return `${kind === 'p' ? '' : 'ONLY '}${escapeIdentifier(schema)}.${escapeIdentifier(table)}`;
}

export const rowFilters = ({ published: { rowFilter } }: SourceTable): string[] =>
  rowFilter ? [`(${rowFilter})`] : [];

export function filters(table: SourceTable, values: Values): string[] {
  const { since } = table;
  if (!since) return rowFilters(table);
  const from = `CAST(${values.add(since.text)}::text AS ${since.typeSql})`;
  return [...rowFilters(table), `${escapeIdentifier(since.column.name)} >= ${from}`];
}

export function whereSql(table: SourceTable, { after, upto }: KeyRange, values: Values): string {
  const terms = (key: KeyText | null): string[] | null => key?.map((text) => values.add(text)) ?? null;
  return betweenSql(table, { after: terms(after), upto: terms(upto) }, values);
}

/** As `whereSql`; bounds are SQL of the texts of a key's columns. */
export function betweenSql(
  table: SourceTable,
  { after, upto }: { readonly after: readonly string[] | null; readonly upto: readonly string[] | null },
  values: Values,
): string {
  const names = table.key.map(({ name }) => escapeIdentifier(name));
  const compare = (operator: string, key: readonly string[]): string => {
    const bound = table.key.map(({ typeSql }, i) => `CAST(${key[i]}::text AS ${typeSql})`).join(', ');
    return names.length === 1
      ? `${names[0]} ${operator} ${bound}`
      : `ROW(${names.join(', ')}) ${operator} ROW(${bound})`;
  };
  const conditions = [
    ...filters(table, values),
    ...(after ? [compare('>', after)] : []),
    ...(upto ? [compare('<=', upto)] : []),
  ];
  return conditions.length > 0 ? conditions.join(' AND ') : 'true';
}

/** 60 bits of a hash, from a hexadecimal digit on. */
export const numberSql = (hash: string, from: number): string =>
  `('x' || substr(${hash}, ${from}, 15))::bit(60)::bigint`;

export function bucketSql(table: SourceTable, count: number, values: Values): string {
  const keys = table.key.map(({ name }, i) => `concat(${escapeIdentifier(name)}) AS k${i}`);
  const name = keys.length > 0 ? sha256Sql(`concat_ws(chr(1), ${table.key.map((_, i) => `k${i}`).join(', ')})`) : 'h';
  return `SELECT *, ${numberSql(name, 1)} % ${count} AS bucket FROM (
    SELECT ${[`${sha256Sql(rowTextSql(fieldsOf(table)))} AS h`, ...keys].join(', ')}
    FROM ${fromSql(table)} WHERE ${filters(table, values).join(' AND ') || 'true'} OFFSET 0) y`;
}
