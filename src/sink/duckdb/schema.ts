import { RejectedError } from '../../errors.ts';
import type { Column, ColumnType, Relation } from '../../event/relation.ts';
import { DECIMAL_WIDTH_MAX, numericModifier, stripDomain, type Target, TEXT, targetOf } from './mapping.ts';
import { BOOKKEEPING, foldName, OWN_TABLE, quoteName, targetSchema } from './names.ts';
import { sourceTextSql } from './source-text.ts';

/** A column as the sink holds it. */
export interface SinkColumn {
  readonly name: string;
  /** Its number in the source's table, where anyone has told. */
  readonly attnum?: number | undefined;
  readonly type: ColumnType;
  readonly modifier: number;
  /** Labels of an enum that arrived in data before the catalog told of them. */
  readonly extraLabels: readonly string[];
  /** False once the source dropped it: it stays, with NULL in new rows. */
  readonly live: boolean;
  /** Counts the columns of this name: a column dropped and added again is another one, and empties. */
  readonly generation: number;
  /** True once a value came that the type's own target cannot hold: the column is VARCHAR, in PostgreSQL's text. */
  readonly text?: true | undefined;
}

export const targetOfColumn = (column: SinkColumn): Target => (column.text ? TEXT : typedTarget(column));

const typedTarget = (column: SinkColumn): Target => targetOf(column.type, column.modifier, column.extraLabels);

export const fresh = ({ name, attnum, type, modifier }: Column, generation: number): SinkColumn => ({
  name,
  attnum,
  type,
  modifier,
  extraLabels: [],
  live: true,
  generation,
});

/** `schema.table` in the file, with names compared as DuckDB does: what two source tables must not share. */
export function targetKey(relation: { readonly schema: string; readonly table: string }): string {
  return JSON.stringify([foldName(targetSchema(relation.schema)), foldName(relation.table)]);
}

/** Throws a RejectedError where DuckDB cannot hold such a table at all. */
export function checkRelation(relation: Relation): void {
  const { schema, table } = relation;
  if (foldName(schema) === BOOKKEEPING) {
    throw new RejectedError(schema, table, `schema "${schema}" is the name of Waltide's own schema in the DuckDB file`);
  }
  if (foldName(table).startsWith(OWN_TABLE)) {
    throw new RejectedError(
      schema,
      table,
      `names of tables that begin with "${OWN_TABLE}" are Waltide's own in the DuckDB file`,
    );
  }
  const seen = new Map<string, string>();
  for (const { name } of relation.columns) {
    const other = seen.get(foldName(name));
    if (other !== undefined) {
      throw new RejectedError(
        schema,
        table,
        `columns "${other}" and "${name}" of ${schema}.${table} differ in case only, which DuckDB does not tell apart`,
      );
    }
    seen.set(foldName(name), name);
  }
}

export function createColumns(relation: Relation): SinkColumn[] {
  return relation.columns.map((column) => fresh(column, 0));
}

export function createTableSql(name: string, columns: readonly SinkColumn[]): string {
  return `CREATE TABLE ${name} (${columns.map((column) => `${quoteName(column.name)} ${targetOfColumn(column).sql}`).join(', ')})`;
}

/**
 * The columns after the relation changed, matched by name: new ones are added, missing ones stay without being live,
 * wider types are taken over. Throws a RejectedError where stored values would differ from the source's afterwards.
 */
export function evolve(columns: readonly SinkColumn[], relation: Relation): SinkColumn[] {
  const incoming = new Map(relation.columns.map((column) => [foldName(column.name), column]));
  const evolved = columns.map((column): SinkColumn => {
    const next = incoming.get(foldName(column.name));
    incoming.delete(foldName(column.name));
    if (!next) return column.live ? { ...column, live: false } : column;
    if (!column.live || column.name !== next.name) return fresh(next, column.generation + 1);
    return retyped(column, next, relation);
  });
  return [...evolved, ...[...incoming.values()].map((column) => fresh(column, 0))];
}

/**
 * The column with the type of `next`. Throws a RejectedError where stored values would differ from the source's then.
 * `cast`: PostgreSQL converted the values by its own cast, and so refused those that do not fit.
 */
export function retyped(column: SinkColumn, next: Column, relation: Relation, cast = false): SinkColumn {
  const why = column.text ? whyTextDiffers(column, next) : whyNotWider(column, next, cast);
  if (why !== null) {
    const { schema, table } = relation;
    const message = `column "${column.name}" of ${schema}.${table} changed its type: ${why}`;
    throw new RejectedError(schema, table, message, { refill: true });
  }
  return { ...column, attnum: next.attnum ?? column.attnum, type: next.type, modifier: next.modifier };
}

/** The statements that lead from `before` to `after`, which came of it by `evolve`. */
export function alterTableSql(name: string, before: readonly SinkColumn[], after: readonly SinkColumn[]): string[] {
  const statements: string[] = [];
  const typed = after.map((column, index) =>
    column.text && !before[index]?.text ? { ...column, text: undefined } : column,
  );
  typed.forEach((column, index) => {
    const old = before[index];
    const { sql } = targetOfColumn(column);
    const quoted = quoteName(column.name);
    if (!old) statements.push(`ALTER TABLE ${name} ADD COLUMN ${quoted} ${sql}`);
    else if (old.generation !== column.generation) {
      statements.push(
        `ALTER TABLE ${name} DROP COLUMN ${quoteName(old.name)}`,
        `ALTER TABLE ${name} ADD COLUMN ${quoted} ${sql}`,
      );
    } else if (targetOfColumn(old).sql !== sql)
      statements.push(`ALTER TABLE ${name} ALTER COLUMN ${quoted} TYPE ${sql}`);
  });
  return [...statements, ...turnToTextSql(name, typed, after)];
}

const REWRITTEN = 'temp.main."_waltide_text"';

/**
 * Rewrites the table where columns go over to text: values become what PostgreSQL prints, and not DuckDB. Not by ALTER
 * COLUMN … USING: where that calls a function, DuckDB 1.5 cannot read its own log again after a crash.
 */
function turnToTextSql(name: string, before: readonly SinkColumn[], after: readonly SinkColumn[]): string[] {
  if (after.every((column, i) => column.text === before[i]!.text)) return [];
  return rewriteSql(name, after, (column, i) => {
    const turns = column.text && !before[i]!.text;
    return turns ? sourceTextSql(targetOfColumn(before[i]!), quoteName(column.name)) : null;
  });
}

/** Makes the table anew; `sqlOf` is the SQL of a column's values, null for those that stay. */
export function rewriteSql(
  name: string,
  after: readonly SinkColumn[],
  sqlOf: (column: SinkColumn, index: number) => string | null,
): string[] {
  const values = after.map((column, i) => {
    const quoted = quoteName(column.name);
    return `${sqlOf(column, i) ?? quoted} AS ${quoted}`;
  });
  // A column dropped and added again has moved to the end of DuckDB's table.
  const names = after.map((column) => quoteName(column.name)).join(', ');
  return [
    `CREATE OR REPLACE TEMP TABLE ${REWRITTEN} AS SELECT ${values.join(', ')} FROM ${name}`,
    `DROP TABLE ${name}`,
    createTableSql(name, after),
    `INSERT INTO ${name} (${names}) SELECT ${names} FROM ${REWRITTEN}`,
    `DROP TABLE ${REWRITTEN}`,
  ];
}

/** True where events of both may be applied as one run. */
export function sameShape(a: Relation, b: Relation): boolean {
  if (a === b) return true;
  if (a.replicaIdentity !== b.replicaIdentity || a.oid !== b.oid || a.columns.length !== b.columns.length) return false;
  if (a.key.length !== b.key.length || a.key.some((column, i) => column !== b.key[i])) return false;
  return a.columns.every((column, i) => {
    const other = b.columns[i]!;
    return column.name === other.name && column.modifier === other.modifier && sameType(column.type, other.type);
  });
}

function sameType(a: ColumnType, b: ColumnType): boolean {
  if (a === b) return true;
  if (a.name !== b.name || a.schema !== b.schema || a.kind !== b.kind || a.domainModifier !== b.domainModifier)
    return false;
  if (a.labels.length !== b.labels.length || a.labels.some((label, i) => label !== b.labels[i])) return false;
  return a.of === null || b.of === null ? a.of === b.of : sameType(a.of, b.of);
}

/** FirstNormalObjectId of PostgreSQL: the OID of a type from there on tells it from all others, whatever its name. */
const FIRST_USER_OID = 16384;

/** True where both are one enum type, maybe before and after its labels or its name changed. */
export function sameEnum(a: ColumnType, b: ColumnType): boolean {
  return a.kind === 'enum' && b.kind === 'enum' && (a.name === b.name || (a.oid === b.oid && a.oid >= FIRST_USER_OID));
}

const INTEGER_DIGITS: Readonly<Record<string, number>> = { int2: 5, int4: 10, int8: 19 };
/** Types whose text survives ALTER TYPE to text. */
const TO_TEXT = new Set(['int2', 'int4', 'int8', 'json', 'jsonb', 'uuid', 'varchar', 'text']);

/**
 * Null where every stored value is still what PostgreSQL holds after the change, which rewrites rows without a word in
 * the WAL; else why not. A USING clause is not seen here: only validation finds what it did.
 */
function whyNotWider(column: SinkColumn, next: Column, cast = false): string | null {
  const from = stripDomain(column.type, column.modifier);
  const to = stripDomain(next.type, next.modifier);
  const a = from.type;
  const b = to.type;
  if (sameEnum(a, b)) {
    const gone = a.labels.filter((label) => !b.labels.includes(label));
    return gone.length === 0
      ? null
      : `enum ${a.name} no longer has the label ${gone.map((label) => `"${label}"`).join(', ')}`;
  }
  const base = a.schema === 'pg_catalog' && b.schema === 'pg_catalog';
  if (a.kind === 'array' && b.kind === 'array' && a.of && b.of) {
    const why = whyNotWider(
      { ...column, type: a.of, modifier: from.modifier },
      { ...next, type: b.of, modifier: to.modifier },
      cast,
    );
    // DuckDB alters lists of anything but ENUM, and those are VARCHAR here.
    return why;
  }
  // Somebody renamed it.
  if (a.oid === b.oid && a.oid >= FIRST_USER_OID) return null;
  if (a.name === b.name && a.schema === b.schema) return whyNotSame(a.name, base, from.modifier, to.modifier);
  const no = `${spell(a)} to ${spell(b)} may change stored values`;
  if (!base) return a.kind === 'enum' && b.name === 'text' ? null : no;
  if (b.name === 'text' || (b.name === 'varchar' && (a.name === 'text' || a.name === 'varchar')))
    return TO_TEXT.has(a.name) ? null : no;
  const digits = INTEGER_DIGITS[a.name];
  if (digits !== undefined) {
    const wider = INTEGER_DIGITS[b.name];
    if (wider !== undefined) return wider > digits || cast ? null : no;
    if (b.name !== 'numeric') return no;
    const numeric = numericModifier(to.modifier);
    return !numeric ||
      (numeric.precision <= DECIMAL_WIDTH_MAX && numeric.scale >= 0 && numeric.precision - numeric.scale >= digits)
      ? null
      : no;
  }
  return (a.name === 'float4' && b.name === 'float8') || (a.name === 'date' && b.name === 'timestamp') ? null : no;
}

/** As `whyNotWider`, of a column that holds texts: null where PostgreSQL prints each value as before. */
function whyTextDiffers(column: SinkColumn, next: Column): string | null {
  const from = stripDomain(column.type, column.modifier);
  const to = stripDomain(next.type, next.modifier);
  const why = whyNotWider(column, next);
  if (why !== null || (sameType(from.type, to.type) && from.modifier === to.modifier)) return why;
  // A scale that is given pads; without one the digits stay as they are.
  const element = (type: ColumnType): ColumnType =>
    type.kind === 'array' && type.of ? stripDomain(type.of, -1).type : type;
  const [a, b] = [element(from.type).name, element(to.type).name];
  const unpadded = b !== 'numeric' || numericModifier(to.modifier) === null;
  const same =
    a === b || (a in INTEGER_DIGITS && (b in INTEGER_DIGITS || b === 'numeric')) || b === 'text' || b === 'varchar';
  return same && unpadded ? null : `${spell(from.type)} to ${spell(to.type)} prints stored values otherwise`;
}

/** One type, another modifier. */
function whyNotSame(name: string, base: boolean, from: number, to: number): string | null {
  if (!base || from === to) return null;
  if (name === 'numeric') {
    const a = numericModifier(from);
    const b = numericModifier(to);
    if (!b) return null;
    const fits =
      a &&
      b.precision <= DECIMAL_WIDTH_MAX &&
      b.scale >= a.scale &&
      a.scale >= 0 &&
      b.precision - b.scale >= a.precision - a.scale;
    return fits ? null : 'the new precision and scale may change stored values';
  }
  if (name === 'varchar' && to !== -1 && (from === -1 || to < from))
    return 'a shorter varchar may have lost blanks at its end';
  // Another length of bit varying changes no value; these pad or round.
  const padding = ['bpchar', 'bit', 'time', 'timetz', 'timestamp', 'timestamptz', 'interval'].includes(name);
  return padding ? `another length or precision of ${name} may change stored values` : null;
}

function spell(type: ColumnType): string {
  return type.schema === 'pg_catalog' ? type.name : `${type.schema}.${type.name}`;
}
