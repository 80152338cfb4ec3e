import pg from 'pg';
import { WaltideError } from '../errors.ts';
import { isTooDeep, JSON_DEPTH_MAX } from '../event/json-depth.ts';
import type { JsonRow, JsonValue, WriteRequest } from './operation.ts';
import type { Target, TargetColumn } from './target.ts';

/** SQL with everything that the caller has said in `values`. */
export interface Statement {
  readonly text: string;
  readonly values: readonly string[];
}

export interface Statements {
  /** Affects one row and returns its key as JSON, or none where there is no such row. */
  readonly write: Statement;
  /** Fails where a value is none of its column's type, and changes nothing. */
  readonly check: Statement;
  readonly primaryKey: JsonRow | null;
  readonly data: JsonRow | null;
}

const quote = (name: string): string => pg.escapeIdentifier(name);

/**
 * What a request means for its table. PostgreSQL itself turns JSON into values, by the types of the catalog; names are those
 * of the catalog, quoted. Throws WRITE_INVALID for what the table does not allow. Pure.
 */
export function statementsOf(request: Pick<WriteRequest, 'type' | 'primaryKey' | 'data'>, target: Target): Statements {
  const { type } = request;
  const name = `${quote(target.schema)}.${quote(target.table)}`;
  const key = keyOf(request, target);
  const data = dataOf(request, target);
  const records: { readonly row: JsonRow; readonly sql: string }[] = [];
  const record = (row: JsonRow, alias: string): string => {
    const sql = `pg_catalog.json_to_record($${records.length + 1}::pg_catalog.json) AS ${alias}(${typed(row, target)})`;
    records.push({ row, sql });
    return sql;
  };
  const values = (): string[] => records.map(({ row }) => JSON.stringify(row));
  let text: string;
  if (type === 'create') text = insert(name, data!, record);
  else {
    const where = `WHERE ${target.key.map((column) => equal(column, target)).join(' AND ')}`;
    if (type === 'delete') text = `DELETE FROM ${name} AS t USING ${record(key!, 'k')} ${where}`;
    else {
      const set = Object.keys(data!).map((column) => `${quote(column)} = d.${quote(column)}`);
      text = `UPDATE ${name} AS t SET ${set.join(', ')} FROM ${record(data!, 'd')}, ${record(key!, 'k')} ${where}`;
    }
  }
  const returned = target.key.map((column) => `${literal(column)}, t.${quote(column)}`).join(', ');
  const write = { text: `${text} RETURNING pg_catalog.json_build_object(${returned})::text AS key`, values: values() };
  const from = records.map(({ sql }) => sql).join(', ');
  const check = { text: records.length === 0 ? 'SELECT' : `SELECT * FROM ${from}`, values: values() };
  return { write, check, primaryKey: key, data };
}

function insert(name: string, data: JsonRow, record: (row: JsonRow, alias: string) => string): string {
  const columns = Object.keys(data).map(quote);
  if (columns.length === 0) return `INSERT INTO ${name} AS t DEFAULT VALUES`;
  const selected = columns.map((column) => `d.${column}`).join(', ');
  return `INSERT INTO ${name} AS t (${columns.join(', ')}) SELECT ${selected} FROM ${record(data, 'd')}`;
}

/** Types come from `format_type`, which quotes what must be quoted. */
function typed(row: JsonRow, { columns }: Target): string {
  return Object.keys(row)
    .map((name) => `${quote(name)} ${columns.find((column) => column.name === name)!.type}`)
    .join(', ');
}

function equal(name: string, { columns }: Target): string {
  const { equality } = columns.find((column) => column.name === name)!;
  return `t.${quote(name)} OPERATOR(${quote(equality)}.=) k.${quote(name)}`;
}

function literal(text: string): string {
  return pg.escapeLiteral(text);
}

function keyOf({ type, primaryKey }: Pick<WriteRequest, 'type' | 'primaryKey'>, target: Target): JsonRow | null {
  const { key } = target;
  if (type === 'create') {
    if (primaryKey !== undefined && primaryKey !== null)
      throw invalid(target, 'a new row has its key in `data`', 'Leave `primary_key` out.');
    return null;
  }
  if (key.length === 0)
    throw invalid(target, `it has no primary key, so no row can be told by one`, 'Only `create` can be done here.');
  const columns = key.join(', ');
  if (primaryKey === undefined || primaryKey === null)
    throw invalid(target, `${type} needs \`primary_key\``, `Give the value of ${columns}.`);
  if (typeof primaryKey !== 'object' || Array.isArray(primaryKey)) {
    if (key.length > 1)
      throw invalid(target, `its key has ${key.length} columns`, `Write primary_key as an object with ${columns}.`);
    return checked({ [key[0]!]: primaryKey }, target);
  }
  const given = Object.keys(primaryKey);
  if (given.length !== key.length || !key.every((column) => Object.hasOwn(primaryKey, column)))
    throw invalid(
      target,
      `primary_key has ${given.join(', ') || 'nothing'}`,
      `Its key is ${columns}: give just these.`,
    );
  const row = checked(primaryKey as JsonRow, target);
  const empty = key.find((column) => row[column] === null);
  if (empty !== undefined) throw invalid(target, `${empty} of the key is null`, 'No row has such a key.');
  return row;
}

function dataOf({ type, data }: Pick<WriteRequest, 'type' | 'data'>, target: Target): JsonRow | null {
  if (type === 'delete') {
    if (data !== undefined && Object.keys(data).length > 0)
      throw invalid(target, 'delete takes no `data`', 'Leave it out, or update the row.');
    return null;
  }
  if (data === undefined) throw invalid(target, `${type} needs \`data\``, 'Give values by column.');
  if (type === 'update' && Object.keys(data).length === 0)
    throw invalid(target, '`data` is empty', 'Give the columns to change.');
  return checked(data, target);
}

/** Only columns that are there, are published and can be written. */
function checked(row: JsonRow, target: Target): JsonRow {
  for (const [name, value] of Object.entries(row)) {
    const column = target.columns.find((one) => one.name === name);
    if (column?.generated)
      throw invalid(target, `column "${name}" is generated`, 'PostgreSQL computes it; leave it out.');
    if (!column?.published) throw unknownColumn(name, target);
    if (isTooDeep(value))
      throw invalid(
        target,
        `column "${name}" has more than ${JSON_DEPTH_MAX} arrays and objects inside one another`,
        'Write it flatter, or as text, in quotes.',
      );
    const lossy = lossyNumber(value);
    if (lossy !== null)
      throw invalid(
        target,
        `column "${name}": ${lossy} is a number that JSON rounds or does not have`,
        'Write it as text, in quotes.',
      );
  }
  return row;
}

/** What was meant as 9007199254740993 is another number by now; what JSON does not have would become NULL, or 0. */
function lossyNumber(value: JsonValue): string | null {
  if (Object.is(value, -0)) return '-0';
  if (typeof value === 'number')
    return Number.isFinite(value) && (!Number.isInteger(value) || Number.isSafeInteger(value)) ? null : String(value);
  if (typeof value !== 'object' || value === null) return null;
  for (const inner of Object.values(value) as JsonValue[]) {
    const found = lossyNumber(inner);
    if (found !== null) return found;
  }
  return null;
}

function unknownColumn(name: string, target: Target): WaltideError {
  const known = target.columns.filter(({ published }: TargetColumn) => published).map((column) => column.name);
  return invalid(target, `it has no captured column "${name}"`, `There are: ${known.join(', ')}.`);
}

function invalid({ schema, table }: Target, what: string, help: string): WaltideError {
  return new WaltideError('WRITE_INVALID', `${schema}.${table}: ${what}`, help);
}
