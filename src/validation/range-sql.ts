import pg from 'pg';
import type { KeyText } from '../postgres/snapshots.ts';
import { SHORT_BYTES } from './row-text.ts';
import {
  betweenSql,
  bytesSql,
  fieldsOf,
  fromSql,
  isText,
  sha256Sql,
  textSql,
  type Values,
  whereSql,
} from './source-sql.ts';
import type { SourceTable } from './source-table.ts';
import type { DigestColumn, KeyRange } from './validation.ts';

const { escapeIdentifier } = pg;

/** No column of a table has a name like these. */
const [TABLE, BOUNDS] = ['waltide_table', 'waltide_bounds'];

/** array_send's own header: dimensions, flags, type, length, lower bound. */
const HEADER_BYTES = 20;

/** One row for each range: its number, rows, digest (see range-digest.ts) and LSN. Ranges with two bounds share one plan. */
export function rangeDigestsSql(table: SourceTable, ranges: readonly KeyRange[], values: Values): string {
  const numbered = ranges.map((range, part) => ({ range, part }));
  const bounded = numbered.filter(({ range: { after, upto } }) => after && upto);
  const open = numbered.filter(({ range: { after, upto } }) => !after || !upto);
  const statements = open.map(
    ({ range, part }) => `SELECT ${part}, d.* FROM (${digestSql(table, whereSql(table, range, values))}) d`,
  );
  if (bounded.length > 0) {
    const names = (bound: string): string[] => table.key.map((_, i) => `waltide_${bound}${i}`);
    const [after, upto] = [names('after'), names('upto')];
    const texts = (key: (range: KeyRange) => KeyText): string[] =>
      table.key.map((_, i) => `${values.add(bounded.map(({ range }) => key(range)[i]!))}::text[]`);
    const lists = [
      `${values.add(bounded.map(({ part }) => part))}::int4[]`,
      ...texts((range) => range.after!),
      ...texts((range) => range.upto!),
    ];
    const of = (some: readonly string[]): string[] => some.map((name) => `${BOUNDS}.${name}`);
    const where = betweenSql(table, { after: of(after), upto: of(upto) }, values);
    statements.push(`SELECT ${BOUNDS}.waltide_part, d.*
      FROM unnest(${lists.join(', ')}) AS ${BOUNDS} (${['waltide_part', ...after, ...upto].join(', ')}),
      LATERAL (${digestSql(table, where)}) d`);
  }
  return statements.join(' UNION ALL ');
}

/** The keys that end `rowsPer` rows each, beginning after `after`, at most `max` of them: index entries are skipped, not printed. */
export function boundsSql(
  table: SourceTable,
  after: KeyText | null,
  rowsPer: number,
  max: number,
  values: Values,
): string {
  const names = table.key.map(({ name }) => `${TABLE}.${escapeIdentifier(name)}`);
  const texts = names.map((_, i) => `concat(k${i}) AS k${i}`).join(', ');
  const next = (where: string): string => `SELECT ${texts} FROM (
      SELECT ${names.map((name, i) => `${name} AS k${i}`).join(', ')} FROM ${fromSql(table)} AS ${TABLE} WHERE ${where}
      ORDER BY ${names.join(', ')} OFFSET ${rowsPer - 1} LIMIT 1) z`;
  const first = next(whereSql(table, { after, upto: null }, values));
  const above = { after: names.map((_, i) => `${BOUNDS}.k${i}`), upto: null };
  return `WITH RECURSIVE ${BOUNDS} AS (SELECT 1 AS waltide_n, y.* FROM (${first}) y UNION ALL
    SELECT waltide_n + 1, y.* FROM ${BOUNDS}, LATERAL (${next(betweenSql(table, above, values))}) y WHERE waltide_n < ${max})
    SELECT ${names.map((_, i) => `k${i}`).join(', ')} FROM ${BOUNDS} ORDER BY waltide_n`;
}

function digestSql(table: SourceTable, where: string): string {
  const order = table.key.map(({ name }) => `${TABLE}.${escapeIdentifier(name)}`).join(', ');
  const fields = fieldsOf(table);
  const cells = table.columns.map((column, i) => `${cellSql(column, fields[i]!.text)} AS v${i}`);
  const hashes = table.columns.map(
    (column, i) => `sha256(substr(array_send(array_agg(${shortSql(table, column, `v${i}`)})), ${HEADER_BYTES + 1}))`,
  );
  return `SELECT count(*), encode(sha256(${joined(hashes)}), 'hex'), pg_current_wal_insert_lsn()
    FROM (SELECT ${cells.join(', ')} FROM ${fromSql(table)} AS ${TABLE} WHERE ${where} ORDER BY ${order}) x`;
}

/** NaN has one form. */
function cellSql(column: DigestColumn, text: string): string {
  const value = escapeIdentifier(column.name);
  if (!column.sent) return isText(column) ? value : textSql(text);
  const { name } = column.type;
  return name === 'float4' || name === 'float8'
    ? `CASE WHEN ${value} = 'NaN' THEN 'NaN'::${name} ELSE ${value} END`
    : value;
}

function shortSql(table: SourceTable, column: DigestColumn, value: string): string {
  if (column.sent) return value;
  return `CASE WHEN ${bytesSql(table, value)} <= ${SHORT_BYTES} THEN ${value} ELSE ${sha256Sql(value)} END`;
}

/** By halves, so that a table of very many columns nests no deeper than its logarithm. */
function joined(hashes: readonly string[]): string {
  if (hashes.length === 1) return hashes[0]!;
  const middle = hashes.length >> 1;
  return `(${joined(hashes.slice(0, middle))} || ${joined(hashes.slice(middle))})`;
}
