import pg from 'pg';
import { WaltideError } from '../errors.ts';
import type { PullPage, PullRow } from './pull.ts';
import type { PullTable } from './table.ts';

/** SQL with all values in one JSON parameter; names are those of the catalog, quoted. */
export interface PullStatement {
  readonly text: string;
  readonly values: readonly [string];
}

const quote = (name: string): string => pg.escapeIdentifier(name);
/** The place of a row in its page; no column that a person has made. */
const PLACE = '__waltide_place';

/** What a page means for its table: keys that go, then rows that come, in their order. Pure. Throws PULL. */
export function statementsOf({ rows = [], deletes = [] }: PullPage, table: PullTable): PullStatement[] {
  const statements: PullStatement[] = [];
  if (deletes.length > 0)
    statements.push(
      remove(
        deletes.map((row) => keyOf(row, table)),
        table,
      ),
    );
  // Rows of the same columns, side by side, in one statement: a column that is left out stays as it is.
  for (let i = 0; i < rows.length; ) {
    const columns = columnsOf(rows[i]!, table);
    const group: PullRow[] = [];
    for (; i < rows.length && sameColumns(columns, columnsOf(rows[i]!, table)); i++) group.push(rows[i]!);
    statements.push(upsert(group, columns, table));
  }
  return statements;
}

const tableSql = ({ schema, table }: PullTable): string => `${quote(schema)}.${quote(table)}`;

/** PostgreSQL itself turns JSON into values, by the types of the catalog. */
function records(columns: readonly string[], { columns: types }: PullTable): string {
  const typed = columns.map((name) => `${quote(name)} ${types.get(name)!}`).join(', ');
  return `ROWS FROM (pg_catalog.json_to_recordset($1::pg_catalog.json) AS (${typed})) WITH ORDINALITY
    AS d(${columns.map(quote).join(', ')}, ${PLACE})`;
}

/** The last row of a key counts. What is equal already is not written again: it would only make changes. */
function upsert(rows: readonly PullRow[], columns: readonly string[], table: PullTable): PullStatement {
  const names = columns.map(quote).join(', ');
  const key = table.key.map(quote).join(', ');
  const others = columns.filter((column) => !table.key.includes(column));
  const row = (of: string): string => `ROW(${others.map((column) => `${of}.${quote(column)}`).join(', ')})`;
  const update =
    others.length === 0
      ? 'NOTHING'
      : `UPDATE SET ${others.map((column) => `${quote(column)} = EXCLUDED.${quote(column)}`).join(', ')}
         WHERE pg_catalog.record_image_ne(${row('t')}, ${row('EXCLUDED')})`;
  const text = `INSERT INTO ${tableSql(table)} AS t (${names})
    SELECT DISTINCT ON (${key}) ${names} FROM ${records(columns, table)} ORDER BY ${key}, ${PLACE} DESC
    ON CONFLICT (${key}) DO ${update}`;
  return { text, values: [toJson(rows, table)] };
}

function remove(keys: readonly PullRow[], table: PullTable): PullStatement {
  const equal = table.key.map((column) => `t.${quote(column)} = d.${quote(column)}`).join(' AND ');
  const text = `DELETE FROM ${tableSql(table)} AS t USING ${records(table.key, table)} WHERE ${equal}`;
  return { text, values: [toJson(keys, table)] };
}

function keyOf(row: PullRow, table: PullTable): PullRow {
  for (const column of table.key) if (row[column] === undefined || row[column] === null) throw noKey(column, table);
  return Object.fromEntries(table.key.map((column) => [column, row[column]]));
}

/** In the order of the table. */
function columnsOf(row: PullRow, table: PullTable): readonly string[] {
  for (const name of Object.keys(row))
    if (!table.columns.has(name))
      throw wrong(
        table,
        `a row has "${name}", which may not be written`,
        `Give ${[...table.columns.keys()].join(', ')}.`,
      );
  keyOf(row, table);
  return [...table.columns.keys()].filter((name) => row[name] !== undefined);
}

function sameColumns(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((name, i) => name === b[i]);
}

function toJson(rows: readonly PullRow[], table: PullTable): string {
  return JSON.stringify(rows, function (this: unknown, name, value: unknown) {
    if (typeof value === 'bigint') return String(value);
    // Buffer.toJSON has run before the replacer sees it.
    const own = (this as Record<string, unknown>)[name];
    if (own instanceof Uint8Array) return `\\x${Buffer.from(own).toString('hex')}`;
    if (typeof value === 'number' && !Number.isFinite(value)) return String(value);
    if (typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value))
      throw wrong(table, `${name}: ${value} is a number that JavaScript rounds`, 'Give it as text or as a bigint.');
    return value;
  });
}

function noKey(column: string, table: PullTable): WaltideError {
  return wrong(table, `a row has no "${column}", which is of its key`, `Give ${table.key.join(', ')} with every row.`);
}

function wrong({ schema, table }: PullTable, what: string, help: string): WaltideError {
  return new WaltideError('PULL', `${schema}.${table}: ${what}`, help);
}
