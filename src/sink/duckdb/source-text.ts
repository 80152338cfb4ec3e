import type { Target } from './mapping.ts';

/*
 * SQL expressions for PostgreSQL's own text of a value that DuckDB holds (manual, "Data Types", and for arrays "Array
 * Input and Output Syntax"): what a column is rewritten with when it becomes VARCHAR. DuckDB's text differs in booleans,
 * floating point, BC, infinities, bytes and lists. Tests compare every kind with the server.
 */

/** The text that PostgreSQL prints for `value`, an expression of the target's type; NULL for NULL. */
export function sourceTextSql(target: Target, value: string): string {
  switch (target.kind) {
    case 'bool':
      return `CASE ${value} WHEN true THEN 't' WHEN false THEN 'f' END`;
    case 'float4':
      return floatSql(value, FLOAT4);
    case 'float8':
      return floatSql(value, FLOAT8);
    case 'decimal': {
      const text = `CAST(${value} AS VARCHAR)`;
      return target.width === target.scale ? `regexp_replace(${text}, '^(-?)\\.', '\\10.')` : text;
    }
    case 'bytes':
      return `'\\x' || lower(hex(${value}))`;
    case 'date':
    case 'timestamp':
      return eraSql(`CAST(${value} AS VARCHAR)`);
    case 'timestamptz':
      // The cast would follow the session's time zone. Microseconds of an infinity are none.
      return `CASE WHEN isinf(${value}) THEN CAST(${value} AS VARCHAR) ELSE ${eraSql(`CAST(make_timestamp(epoch_us(${value})) AS VARCHAR) || '+00'`)} END`;
    case 'list':
      return listSql(target.element!, value);
    default:
      return `CAST(${value} AS VARCHAR)`;
  }
}

/** `0044-03-15 (BC) 12:00:00` is `0044-03-15 12:00:00 BC` in PostgreSQL. */
function eraSql(text: string): string {
  return `CASE WHEN contains(${text}, '(BC)') THEN replace(${text}, ' (BC)', '') || ' BC' ELSE ${text} END`;
}

interface FloatKind {
  readonly type: 'FLOAT' | 'DOUBLE';
  /** From here on, as below 0.0001, PostgreSQL writes an exponent. */
  readonly exponentFrom: string;
  /** From here on numbers lie more than 1 apart, so that a short text may be half-way between two of them. */
  readonly sparseFrom: string;
  readonly digitsMax: number;
}

const FLOAT4: FloatKind = { type: 'FLOAT', exponentFrom: '1e6', sparseFrom: '16777216', digitsMax: 9 };
const FLOAT8: FloatKind = { type: 'DOUBLE', exponentFrom: '1e15', sparseFrom: '9007199254740992', digitsMax: 17 };

/** 2^50, 2^51 and 2^52 times 10^23. (2^53 times 10^23 reads back as its neighbour.) */
const BEYOND_HUGEINT = '1.125899906842624e38, 2.251799813685248e38, 4.503599627370496e38';

/** The fewest digits that read back as the same number; DuckDB's own text has sometimes more. */
function floatSql(value: string, kind: FloatKind): string {
  const text = `format('{:.' || n || 'e}', ${value})`;
  const reads = `CAST(${text} AS ${kind.type}) = ${value} AND NOT ${halfwaySql(value, text, kind)}`;
  const digits = `list_filter(range(0, ${kind.digitsMax}), lambda n: ${reads})[1]`;
  const plain = `rtrim(rtrim(CAST(CAST(s AS DECIMAL(38, 20)) AS VARCHAR), '0'), '.')`;
  const written = `CASE WHEN abs(${value}) < 0.0001 OR abs(${value}) >= ${kind.exponentFrom} THEN s ELSE ${plain} END`;
  const shortest = `list_transform(list_transform([${digits}], lambda n: ${text}), lambda s: ${written})[1]`;
  return `CASE WHEN isnan(${value}) THEN 'NaN' WHEN isinf(${value}) THEN CASE WHEN ${value} > 0 THEN 'Infinity' ELSE '-Infinity' END
    WHEN ${value} = 0 THEN CASE WHEN contains(CAST(${value} AS VARCHAR), '-') THEN '-0' ELSE '0' END WHEN ${value} IS NOT NULL THEN ${shortest} END`;
}

/**
 * True where the text is half-way to the next number: 1e+23. It reads back because ties go to even, which PostgreSQL
 * does not rely on: it prints 9.999999999999999e+22. Half a step further out the text would not read back. Such texts
 * are below 1e39 (5^23 is the largest power of 5 in 54 bits); HUGEINT covers all but three of them, and their negatives.
 */
function halfwaySql(value: string, text: string, kind: FloatKind): string {
  const integer = `CAST(${text} AS HUGEINT)`;
  const exact = `CAST(format('{:.0f}', ${value}) AS HUGEINT)`;
  const further = `CAST(CAST(2 * ${integer} + sign(${integer} - ${exact}) AS VARCHAR) AS ${kind.type})`;
  return `CASE WHEN abs(${value}) < ${kind.sparseFrom} THEN false WHEN abs(${value}) < 8e37 THEN ${further} <> 2 * ${value}
    ELSE n < 16 AND abs(${value}) IN (${BEYOND_HUGEINT}) END`;
}

/** Quotes where `array_out` does: empty, NULL by any case, or holding a brace, comma, quote, backslash or white space. */
function listSql(element: Target, list: string): string {
  const text = sourceTextSql(element, 'x');
  const special = `'[\\x09-\\x0d "{},\\\\]'`;
  const quoted = `'"' || replace(replace(y, '\\', '\\\\'), '"', '\\"') || '"'`;
  const item = `CASE WHEN y IS NULL THEN 'NULL' WHEN y = '' OR lower(y) = 'null' OR regexp_matches(y, ${special}) THEN ${quoted} ELSE y END`;
  const items = `list_transform(list_transform(${list}, lambda x: ${text}), lambda y: ${item})`;
  return `CASE WHEN ${list} IS NOT NULL THEN '{' || coalesce(array_to_string(${items}, ','), '') || '}' END`;
}
