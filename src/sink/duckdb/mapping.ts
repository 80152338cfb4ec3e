import duckdb, { type LogicalType } from '@duckdb/node-bindings';
import type { ColumnType } from '../../event/relation.ts';
import { quoteText } from './names.ts';

export type TargetKind =
  | 'bool'
  | 'int2'
  | 'int4'
  | 'int8'
  | 'uint4'
  | 'float4'
  | 'float8'
  | 'decimal'
  | 'text'
  | 'json'
  | 'uuid'
  | 'bytes'
  | 'date'
  | 'time'
  | 'timestamp'
  | 'timestamptz'
  | 'enum'
  | 'list';

/** The DuckDB column of a PostgreSQL column. */
export interface Target {
  readonly kind: TargetKind;
  /** The type as CREATE TABLE takes it. */
  readonly sql: string;
  /** Of a decimal; 0 for all others. */
  readonly width: number;
  readonly scale: number;
  /** Of an enum; empty for all others. */
  readonly labels: readonly string[];
  /** Of a list; null for all others. */
  readonly element: Target | null;
}

const plain = (kind: TargetKind, sql: string): Target => ({ kind, sql, width: 0, scale: 0, labels: [], element: null });

/** What holds the text of any value. */
export const TEXT: Target = plain('text', 'VARCHAR');

/** By `typname` in pg_catalog. What is not here, and not an enum, domain or array, keeps PostgreSQL's text as VARCHAR. */
const BASE: ReadonlyMap<string, Target> = new Map([
  ['bool', plain('bool', 'BOOLEAN')],
  ['int2', plain('int2', 'SMALLINT')],
  ['int4', plain('int4', 'INTEGER')],
  ['int8', plain('int8', 'BIGINT')],
  ['oid', plain('uint4', 'UINTEGER')],
  ['float4', plain('float4', 'FLOAT')],
  ['float8', plain('float8', 'DOUBLE')],
  ['uuid', plain('uuid', 'UUID')],
  ['json', plain('json', 'JSON')],
  ['jsonb', plain('json', 'JSON')],
  ['bytea', plain('bytes', 'BLOB')],
  ['date', plain('date', 'DATE')],
  ['time', plain('time', 'TIME')],
  ['timestamp', plain('timestamp', 'TIMESTAMP')],
  ['timestamptz', plain('timestamptz', 'TIMESTAMP WITH TIME ZONE')],
]);

/** DuckDB's own bound. */
export const DECIMAL_WIDTH_MAX = 38;

/** Precision and scale of a numeric modifier, or null where there is none. Scale is signed since PostgreSQL 15. */
export function numericModifier(modifier: number): { readonly precision: number; readonly scale: number } | null {
  if (modifier < 4) return null;
  const packed = modifier - 4;
  return { precision: (packed >> 16) & 0xffff, scale: ((packed & 0x7ff) ^ 1024) - 1024 };
}

function decimal(modifier: number): Target {
  const numeric = numericModifier(modifier);
  if (!numeric || numeric.precision > DECIMAL_WIDTH_MAX) return TEXT;
  const { precision, scale } = numeric;
  if (scale < 0 || scale > precision) return TEXT;
  return { ...TEXT, kind: 'decimal', sql: `DECIMAL(${precision},${scale})`, width: precision, scale };
}

function enumeration(labels: readonly string[]): Target {
  if (labels.length === 0) return TEXT;
  return { ...TEXT, kind: 'enum', sql: `ENUM(${labels.map(quoteText).join(', ')})`, labels };
}

/** A domain's base type and the modifier that goes with it; any other type as it is. */
export function stripDomain(
  type: ColumnType,
  modifier: number,
): { readonly type: ColumnType; readonly modifier: number } {
  let base = type;
  let baseModifier = modifier;
  while (base.kind === 'domain' && base.of) {
    baseModifier = base.domainModifier;
    base = base.of;
  }
  return { type: base, modifier: baseModifier };
}

/**
 * The one mapping of types, chosen so that no value changes. `extraLabels` are labels of the enum that arrived in
 * data before the catalog told of them. An enum inside an array is VARCHAR, since DuckDB cannot alter a list of ENUM.
 */
export function targetOf(columnType: ColumnType, columnModifier: number, extraLabels: readonly string[] = []): Target {
  const { type, modifier } = stripDomain(columnType, columnModifier);
  if (type.kind === 'enum')
    return enumeration([...type.labels, ...extraLabels.filter((label) => !type.labels.includes(label))]);
  if (type.kind === 'array' && type.of && type.delimiter === ',') {
    const inner = stripDomain(type.of, modifier);
    const known =
      inner.type.kind === 'enum' || inner.type.kind === 'array' ? TEXT : targetOf(inner.type, inner.modifier);
    return { ...TEXT, kind: 'list', sql: `${known.sql}[]`, element: known };
  }
  if (type.kind !== 'base' || type.schema !== 'pg_catalog') return TEXT;
  return type.name === 'numeric' ? decimal(modifier) : (BASE.get(type.name) ?? TEXT);
}

const { Type } = duckdb;

const IDS: Readonly<Record<Exclude<TargetKind, 'decimal' | 'enum' | 'list' | 'json'>, number>> = {
  bool: Type.BOOLEAN,
  int2: Type.SMALLINT,
  int4: Type.INTEGER,
  int8: Type.BIGINT,
  uint4: Type.UINTEGER,
  float4: Type.FLOAT,
  float8: Type.DOUBLE,
  text: Type.VARCHAR,
  uuid: Type.UUID,
  bytes: Type.BLOB,
  date: Type.DATE,
  time: Type.TIME,
  timestamp: Type.TIMESTAMP,
  timestamptz: Type.TIMESTAMP_TZ,
};

/** The same type for data chunks, so that nothing is cast on the way into the table. */
export function logicalType(target: Target): LogicalType {
  switch (target.kind) {
    case 'decimal':
      return duckdb.create_decimal_type(target.width, target.scale);
    case 'enum':
      return duckdb.create_enum_type(target.labels);
    case 'list':
      return duckdb.create_list_type(logicalType(target.element!));
    case 'json': {
      // JSON is VARCHAR by another name. Without the name DuckDB would parse each value once more to cast it.
      const type = duckdb.create_logical_type(Type.VARCHAR);
      duckdb.logical_type_set_alias(type, 'JSON');
      return type;
    }
    default:
      return duckdb.create_logical_type(IDS[target.kind]);
  }
}
