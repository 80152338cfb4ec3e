import { WaltideError } from '../errors.ts';
import { type ArrayItem, parseArray } from './array-text.ts';
import type { ColumnType } from './relation.ts';
import type { Row } from './row.ts';
import { parseDate, parseTime, parseTimestamp } from './temporal.ts';

/** First OID that is not PostgreSQL's own (FirstNormalObjectId): a user's type named `date` is not the built-in one. */
const OWN_TYPES_END = 16_384;

/** The type that decides the form of a value: a domain prints as its base type does. */
export function baseType(type: ColumnType): ColumnType {
  let base = type;
  while (base.kind === 'domain' && base.of) base = base.of;
  return base;
}

/** Name of a built-in base type; null for arrays, enums, extensions' and users' types. */
export function builtinName(type: ColumnType): string | null {
  return type.kind === 'base' && type.oid < OWN_TYPES_END ? type.name : null;
}

/** The one table of what user code gets per type. A type that is not here stays text. */
const DECODERS: Readonly<Record<string, (text: string) => unknown>> = {
  bool: (text) => text === 't',
  int2: Number,
  int4: Number,
  int8: BigInt,
  oid: Number,
  xid: Number,
  float4: Number,
  float8: Number,
  date: parseDate,
  time: parseTime,
  timestamp: parseTimestamp,
  timestamptz: parseTimestamp,
  bytea: bytesOf,
};

function bytesOf(text: string): Uint8Array {
  if (!text.startsWith('\\x')) {
    throw new WaltideError(
      'PROTOCOL',
      'A bytea value is not in hex form',
      'Report this: the session setting bytea_output is not in force.',
    );
  }
  return new Uint8Array(Buffer.from(text.slice(2), 'hex'));
}

function decodeItem(item: ArrayItem, type: ColumnType, modifier: number): unknown {
  if (item === null) return null;
  if (typeof item === 'string') return decodeValue(type, modifier, item);
  return item.map((inner) => decodeItem(inner, type, modifier));
}

/**
 * A value for user code: int8 → bigint; int2, int4, oid, xid, float4, float8 → number; bool → boolean; date → days
 * since 1970-01-01 as a number; time, timestamp, timestamptz → microseconds (since midnight, or the Unix epoch) as a
 * bigint; infinite dates → 'infinity' and '-infinity'; bytea → Uint8Array; arrays → (nested) arrays without their
 * bounds; numeric and everything else → PostgreSQL's text. Never loses a digit.
 * Throws PROTOCOL where the text is not what PostgreSQL prints for the type.
 */
export function decodeValue(type: ColumnType, modifier: number, text: string): unknown {
  const base = baseType(type);
  if (base.kind === 'array' && base.of && (text.startsWith('{') || text.startsWith('['))) {
    return decodeItem(parseArray(text, base.delimiter).elements, base.of, modifier);
  }
  const name = builtinName(base);
  const decode = name === null || !Object.hasOwn(DECODERS, name) ? null : DECODERS[name]!;
  if (!decode) return text;
  try {
    return decode(text);
  } catch (error) {
    if (error instanceof WaltideError) throw error;
    throw new WaltideError(
      'PROTOCOL',
      `"${text}" is not a value of type ${base.name}`,
      'Report this with the column type and the PostgreSQL version.',
      { cause: error },
    );
  }
}

/** A column's value as `decodeValue` gives it; null for NULL, undefined for an unchanged TOAST value. */
export function valueAt(row: Row, column: number): unknown {
  const text = row.text(column);
  if (text === null || text === undefined) return text;
  const { type, modifier } = row.relation.columns[column]!;
  return decodeValue(type, modifier, text);
}
