import { WaltideError } from '../errors.ts';
import type { Column, ColumnType, Relation } from '../event/relation.ts';
import { relationName } from '../event/relation.ts';
import { baseType, builtinName } from '../event/value.ts';
import { bindFilter, type Filter } from './filter.ts';
import type { LoadedFunction } from './function.ts';
import type { ResolvedColumn } from './known-columns.ts';
import { INJECTIVE, type Mask } from './mask.ts';
import type { ColumnPlan } from './rewrite.ts';
import type { CastType, RowRules } from './treatments.ts';

/** What becomes of one table's rows. */
export interface Plan {
  /** The table as the source has it. */
  readonly source: Relation;
  /** Names of its columns in the configuration. */
  readonly names: readonly string[];
  /** Which rows pass: all of these are true for them. */
  readonly filters: readonly Filter[];
  readonly functions: readonly LoadedFunction[];
  /** Rows come whole also as they were before a change; or none changes: filters and functions may look at every column. */
  readonly whole: boolean;
  readonly columns: readonly ColumnPlan[];
  /** The table as it leaves the source. */
  readonly relation: Relation;
}

const builtin = (oid: number, name: string): ColumnType => ({
  oid,
  name,
  schema: 'pg_catalog',
  kind: 'base',
  of: null,
  domainModifier: -1,
  delimiter: ',',
  labels: [],
});

const TYPES: Readonly<Record<CastType, ColumnType>> = {
  text: builtin(25, 'text'),
  int4: builtin(23, 'int4'),
  int8: builtin(20, 'int8'),
  numeric: builtin(1700, 'numeric'),
  float8: builtin(701, 'float8'),
};

/** Whose values are values of the type, digit for digit. */
const CASTS: Readonly<Record<CastType, readonly string[]>> = {
  text: [],
  int4: ['int2'],
  int8: ['int2', 'int4', 'oid'],
  numeric: ['int2', 'int4', 'int8', 'oid'],
  float8: ['int2', 'int4'],
};

/**
 * Null where the table leaves as it is. Throws PROTECTION or TRANSFORM where what is configured cannot be kept for it.
 * `now`: the relation is of this time, so that a filter finds every column; in the stream one that came later is NULL.
 */
export function makePlan(
  source: Relation,
  resolved: readonly ResolvedColumn[],
  rows: RowRules,
  now: boolean,
): Plan | null {
  checkKey(source, resolved);
  const names = resolved.map(({ name }) => name);
  const columns = resolved.flatMap(({ treatment }, from): ColumnPlan[] =>
    treatment?.drop ? [] : [{ from, mask: treatment?.mask ?? null }],
  );
  const described = columns.map(({ from }) => describe(source, from, resolved[from]!));
  const changed = described.length < names.length || described.some((column, i) => column !== source.columns[i]);
  if (!changed && rows.filters.length + rows.functions.length === 0) return null;
  const twice = described.find(({ name }, i) => described.findIndex((other) => other.name === name) !== i);
  if (twice) throw cannot(source, `would have two columns ${twice.name}`, 'Choose another name in rename.');
  const named = source.columns.map((column, i) => ({ ...column, name: names[i]! }));
  const key = source.key.map((index) => columns.findIndex(({ from }) => from === index));
  return {
    source,
    names,
    filters: rows.filters.map((filter) => bindFilter(filter, named, relationName(source), now)),
    functions: rows.functions,
    whole: isWhole(source),
    columns,
    relation: changed ? { ...source, columns: described, key } : source,
  };
}

/** PostgreSQL publishes neither updates nor deletes of a table where nothing tells rows apart. */
function isWhole({ replicaIdentity, key }: Relation): boolean {
  return replicaIdentity === 'f' || replicaIdentity === 'n' || key.length === 0;
}

/**
 * As PostgreSQL's own row filters: an update takes a row out, or brings one in, by what it was before, and only the
 * replica identity tells that.
 */
export function checkFilters({ source, names, whole }: Plan, filtered: readonly string[]): void {
  const unknown = whole ? [] : filtered.filter((name) => !source.key.includes(names.indexOf(name)));
  if (unknown.length > 0)
    throw cannot(
      source,
      `has a filter on ${unknown.join(', ')}, and an update does not tell what that was before`,
      `Run ALTER TABLE ${relationName(source)} REPLICA IDENTITY FULL, or filter by columns of its key.`,
    );
}

function checkKey(relation: Relation, resolved: readonly ResolvedColumn[]): void {
  for (const index of relation.key) {
    const { name, treatment } = resolved[index]!;
    if (treatment?.drop)
      throw cannot(
        relation,
        `has ${name} in its key, which drop would take away`,
        'Leave columns of a key in, or mask them.',
      );
    if (treatment?.mask && !INJECTIVE.has(treatment.kind))
      throw new WaltideError(
        'PROTECTION',
        `source.protect: ${relationName(relation)}.${name} belongs to the key of its table, and ${treatment.kind} would make different rows the same`,
        'Mask columns of a key by hash or encrypt.',
      );
  }
}

function describe(relation: Relation, index: number, { treatment }: ResolvedColumn): Column {
  const column = relation.columns[index]!;
  if (!treatment) return column;
  const { mask, rename, cast } = treatment;
  if (!mask && !rename && !cast) return column;
  const name = rename ?? column.name;
  const { existing } = column;
  if (mask) {
    if (cast !== null && cast !== 'text')
      throw cannot(relation, `casts ${column.name} to ${cast}, but a masked column is text`, 'Leave the cast out.');
    const masked = { ...column, name, type: TYPES.text, modifier: -1 };
    return typeof existing === 'object' ? { ...masked, existing: { text: maskedText(existing.text, mask) } } : masked;
  }
  if (!cast) return { ...column, name };
  const from = builtinName(baseType(column.type)) ?? column.type.name;
  if (cast !== 'text' && cast !== from && !CASTS[cast].includes(from))
    throw cannot(
      relation,
      `cannot have ${column.name} cast from ${from} to ${cast}: some values would not fit`,
      `To ${cast} go ${CASTS[cast].join(', ')}; to text anything.`,
    );
  return { ...column, name, type: TYPES[cast], modifier: -1 };
}

/** NULL, and what is not told, stay so. */
export function maskedText<T extends null | undefined>(text: string | T, mask: Mask): string | T {
  return typeof text === 'string' ? Buffer.from(mask(Buffer.from(text))).toString('utf8') : text;
}

function cannot(relation: Relation, what: string, help: string): WaltideError {
  return new WaltideError('TRANSFORM', `source.transforms: table ${relationName(relation)} ${what}`, help);
}
