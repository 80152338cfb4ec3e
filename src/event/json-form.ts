import type { ColumnType, Relation } from './relation.ts';
import { baseType, builtinName } from './value.ts';

/**
 * How a column's value looks in JSON. Every form but the plain string falls back to a string with PostgreSQL's own
 * text for a value it cannot hold exactly, so that nothing is ever lost.
 */
export type Form = number;
/** A string with PostgreSQL's text: numeric, text, uuid, jsonb, ranges, enums, composites and all that is unknown. */
export const STRING = 0;
/** A number literal with PostgreSQL's digits: int2, int4, int8, oid, xid, float4, float8. */
export const NUMBER = 1;
export const BOOLEAN = 2;
/** Days since the epoch, as Debezium's io.debezium.time.Date. */
export const DATE = 3;
/** Microseconds since midnight, as io.debezium.time.MicroTime. */
export const TIME = 4;
/** Microseconds since the epoch, as io.debezium.time.MicroTimestamp. */
export const TIMESTAMP = 5;
/** An ISO 8601 string in UTC, as io.debezium.time.ZonedTimestamp. */
export const TIMESTAMPTZ = 6;
/** Base64, as Kafka Connect writes BYTES. */
export const BYTES = 7;
/** A JSON array of the elements' form, for one dimension from 1. */
export const ARRAY = 8;

const FORMS: Readonly<Record<string, Form>> = {
  bool: BOOLEAN,
  int2: NUMBER,
  int4: NUMBER,
  int8: NUMBER,
  oid: NUMBER,
  xid: NUMBER,
  float4: NUMBER,
  float8: NUMBER,
  date: DATE,
  time: TIME,
  timestamp: TIMESTAMP,
  timestamptz: TIMESTAMPTZ,
  bytea: BYTES,
};

function scalarForm(type: ColumnType): Form {
  const name = builtinName(baseType(type));
  return name !== null && Object.hasOwn(FORMS, name) ? FORMS[name]! : STRING;
}

/** What the codec needs to know of one column. */
export interface ColumnForm {
  readonly form: Form;
  /** Form of an array's elements; STRING for all others. */
  readonly element: Form;
  /** The byte between an array's elements. */
  readonly delimiter: number;
  /** The name as a JSON string, with its quotes. */
  readonly name: Buffer;
  /** `{"name":` or `,"name":`, as the column's place in the row asks for. */
  readonly label: Buffer;
}

/** A relation's forms and ready-made bytes; built once per relation object. */
export interface RelationForm {
  readonly columns: readonly ColumnForm[];
  /** Index by name, for rows whose fields come in another order. */
  readonly byName: ReadonlyMap<string, number>;
  /** Labels of the key's columns, in the order of `relation.key`. */
  readonly keyLabels: readonly Buffer[];
  /** `,"schema":"…","table":"…"` for the source block. */
  readonly source: Buffer;
}

function columnForm(name: string, type: ColumnType, index: number): ColumnForm {
  const base = baseType(type);
  const array = base.kind === 'array' && base.of !== null;
  const quoted = JSON.stringify(name);
  return {
    form: array ? ARRAY : scalarForm(type),
    element: array ? scalarForm(base.of!) : STRING,
    delimiter: base.delimiter.charCodeAt(0),
    name: Buffer.from(quoted),
    label: Buffer.from(`${index === 0 ? '{' : ','}${quoted}:`),
  };
}

export function relationForm(relation: Relation): RelationForm {
  const { columns, key, schema, table } = relation;
  return {
    columns: columns.map(({ name, type }, index) => columnForm(name, type, index)),
    byName: new Map(columns.map(({ name }, index) => [name, index])),
    keyLabels: key.map((column, i) => Buffer.from(`${i === 0 ? '{' : ','}${JSON.stringify(columns[column]!.name)}:`)),
    source: Buffer.from(`,"schema":${JSON.stringify(schema)},"table":${JSON.stringify(table)}`),
  };
}
