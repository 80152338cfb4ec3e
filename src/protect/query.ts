import pg from 'pg';
import { messageOf } from '../errors.ts';
import { queryError, sqlState } from '../postgres/connection.ts';
import { maskedText } from './plan.ts';
import type { Protection } from './protection.ts';
import type { Treatment } from './treatments.ts';

/** In place of a value of which nobody can tell whether a masked one is in it. */
export const NOT_SHOWN = '(not shown: an expression, and columns are masked)';
const DROPPED = '(not shown: source.transforms drops the column)';

/** A value as the server wrote it, which is what masks are of, and as it is read. */
class Value {
  readonly text: string;
  readonly read: unknown;

  constructor(text: string, read: unknown) {
    this.text = text;
    this.read = read;
  }
}

const VALUES: pg.CustomTypesConfig = {
  getTypeParser: (oid: number, format?: 'text' | 'binary') => {
    const read = pg.types.getTypeParser(oid, format as 'text') as (text: string) => unknown;
    return (text: string) => new Value(text, read(text));
  },
} as pg.CustomTypesConfig;

/**
 * What tables lend to one another: rows of a partition or of a table that inherits are also in those above it, under the same
 * names of columns.
 */
const FAMILY = `
WITH RECURSIVE asked AS (SELECT * FROM unnest($1::oid[], $2::int2[]) AS t (relid, attnum)),
  up AS (SELECT relid AS first, relid FROM asked
    UNION SELECT up.first, i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.relid),
  down AS (SELECT relid AS first, relid FROM asked
    UNION SELECT down.first, i.inhrelid FROM down JOIN pg_catalog.pg_inherits i ON i.inhparent = down.relid)
SELECT asked.relid::int8::float8 AS "tableID", asked.attnum AS "columnID", f.relkind::text AS kind, c.oid::int8::float8 AS oid,
  n.nspname AS schema, c.relname AS table, a.attnum, a.attname AS name
FROM asked JOIN pg_catalog.pg_class f ON f.oid = asked.relid
JOIN pg_catalog.pg_attribute own ON own.attrelid = asked.relid AND own.attnum = asked.attnum
JOIN (SELECT * FROM up UNION SELECT * FROM down) AS family ON family.first = asked.relid
JOIN pg_catalog.pg_class c ON c.oid = family.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = own.attname`;

interface Member {
  readonly tableID: number;
  readonly columnID: number;
  readonly kind: string;
  readonly oid: number;
  readonly schema: string;
  readonly table: string;
  readonly attnum: number;
  readonly name: string;
}

/**
 * Rows of somebody's query in the source, as they may be shown: a column as it leaves the source, and nothing of an expression
 * where any column is hidden, since nobody can tell what it is made of. Rejects as the query does; see `refusalOf`.
 */
export async function queryAsItLeaves(
  client: pg.Client,
  protection: Protection,
  query: { readonly text: string; readonly values: unknown[] },
): Promise<unknown[][]> {
  if (!protection.hidesSome) return (await client.query<unknown[]>({ ...query, rowMode: 'array' })).rows;
  const { rows, fields } = await client.query<(Value | null)[]>({ ...query, rowMode: 'array', types: VALUES });
  if (rows.length === 0) return [];
  const show = await shownBy(client, protection, fields);
  return rows.map((row) => row.map((value, i) => value && show[i]!(value)));
}

/** What the server says of a query that it refuses, as far as no value can be in it: only what it says of the statement itself. */
export function refusalOf(protection: Protection, error: unknown): string {
  const state = sqlState(error) ?? '';
  if (!protection.hidesSome || /^(42|57)/.test(state)) return messageOf(error);
  return `SQLSTATE ${state} (its message is not shown: it may hold a value, and columns are masked)`;
}

type Show = (value: Value) => unknown;

async function shownBy(client: pg.Client, protection: Protection, fields: readonly pg.FieldDef[]): Promise<Show[]> {
  // What a view shows is an expression as well; columns of the system (ctid, …) hold nothing of a row.
  const plain = fields.filter(({ tableID, columnID }) => tableID !== 0 && columnID > 0);
  const members = plain.length > 0 ? await familyOf(client, plain) : [];
  return fields.map(({ tableID, columnID }): Show => {
    if (tableID !== 0 && columnID < 0) return ({ read }) => read;
    const own = members.filter((member) => member.tableID === tableID && member.columnID === columnID);
    if (own.length === 0 || !['r', 'p'].includes(own[0]!.kind)) return () => NOT_SHOWN;
    const treatments = own.flatMap((member): Treatment[] => {
      const treatment = protection.treatmentOf(member, member.attnum, member.name);
      return treatment ? [treatment] : [];
    });
    const mask = treatments.find((treatment) => treatment.mask)?.mask;
    if (mask) return ({ text }) => maskedText(text, mask);
    return treatments.some(({ drop }) => drop) ? () => DROPPED : ({ read }) => read;
  });
}

async function familyOf(client: pg.Client, fields: readonly pg.FieldDef[]): Promise<Member[]> {
  const columns = new Map(fields.map(({ tableID, columnID }) => [`${tableID} ${columnID}`, [tableID, columnID]]));
  const [tables, numbers] = [0, 1].map((i) => [...columns.values()].map((column) => column[i]));
  try {
    return (await client.query<Member>(FAMILY, [tables, numbers])).rows;
  } catch (error) {
    throw queryError(error, 'reading whose columns a query shows');
  }
}
