import { createHash } from 'node:crypto';
import type { ColumnType } from '../event/relation.ts';
import type { KeyText } from '../postgres/snapshots.ts';

/*
 * The text of a row that digests are of, the same to the byte in every store. Fields are parted by U+0001. A field whose
 * text may hold one stands after its length in bytes of UTF-8 and a colon, so that no two rows have one text; NULL is
 * empty there and has no length.
 *
 * A range's digest is of its columns, one after another, which costs PostgreSQL a good deal less than texts of rows: the
 * SHA-256 of the SHA-256s of all columns. A column is its values in the order of the key, each after its length (4 bytes,
 * big-endian; -1 for NULL), as array_send writes elements: what the type's send function gives, or else the text, of more
 * than SHORT_BYTES as its SHA-256 in hexadecimal.
 */

export const SHORT_BYTES = 256;
/** What a range may take at most in either store, and the ranges of one query together. */
const RANGE_BYTES_MAX = 2 * 1024 * 1024;
const QUERY_BYTES_MAX = 32 * 1024 * 1024;
/** Small enough that few ranges hold a row in flight, large enough that a query costs little beside its rows. */
const ROWS_PER_RANGE = 2048;
const RANGES_PER_QUERY = 16;
const SENT_BYTES = 24;
/** Of a row's SHA-256, in hexadecimal digits: 96 bits tell 2^48 rows apart by chance. */
export const ROW_HASH_CHARS = 24;
/** A longer value is fetched as its SHA-256. */
export const CELL_BYTES_MAX = 1024;
/** Functions of PostgreSQL take 100 arguments at most. */
const FIELDS_PER_CALL = 50;

/** What is printed in letters, digits and a few marks, and is never empty. */
const PLAIN: ReadonlySet<string> = new Set([
  ...['bool', 'int2', 'int4', 'int8', 'oid', 'float4', 'float8', 'numeric', 'money', 'uuid', 'bytea'],
  ...['date', 'time', 'timetz', 'timestamp', 'timestamptz', 'interval', 'inet', 'cidr', 'macaddr', 'macaddr8'],
]);

/** True where NULL alone has an empty text, and no text holds U+0001. */
export function isPlain({ kind, schema, name }: ColumnType): boolean {
  return kind === 'base' && schema === 'pg_catalog' && PLAIN.has(name);
}

/** How many rows a range has, and how many ranges are asked for at once. */
export function sizesOf(columns: readonly { readonly sent: boolean }[]): { rows: number; ranges: number } {
  const bytes = columns.reduce((sum, { sent }) => sum + (sent ? SENT_BYTES : SHORT_BYTES), 0);
  const rows = Math.max(1, Math.min(ROWS_PER_RANGE, Math.floor(RANGE_BYTES_MAX / bytes)));
  return { rows, ranges: Math.max(1, Math.min(RANGES_PER_QUERY, Math.floor(QUERY_BYTES_MAX / (rows * bytes)))) };
}

export interface Field {
  readonly plain: boolean;
  /** SQL of the value's text; NULL for NULL. */
  readonly text: string;
  /** SQL of its length in bytes of UTF-8. */
  readonly bytes: string;
}

/** SQL of a row's text. `concat` and `concat_ws` are the same in PostgreSQL and its relatives. */
export function rowTextSql(fields: readonly Field[]): string {
  const texts = fields.map(({ plain, text, bytes }) => (plain ? `concat(${text})` : `concat(${bytes}, ':', ${text})`));
  const groups: string[] = [];
  for (let i = 0; i < texts.length; i += FIELDS_PER_CALL)
    groups.push(`concat_ws(chr(1), ${texts.slice(i, i + FIELDS_PER_CALL).join(', ')})`);
  return groups.length === 1 ? groups[0]! : `concat_ws(chr(1), ${groups.join(', ')})`;
}

/** As the digests of such a row in a store, of fields that are not plain. */
export function rowHash(texts: readonly (string | null)[]): string {
  const fields = texts.map((text) => (text === null ? ':' : `${Buffer.byteLength(text)}:${text}`));
  return sha256(fields.join('\u0001')).slice(0, ROW_HASH_CHARS);
}

/** As a store gives the cell. */
export function cellOf(text: string | null): string | null {
  return text !== null && Buffer.byteLength(text) > CELL_BYTES_MAX ? `sha256 ${sha256(text)}` : text;
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/** A row's key as one string. */
export function keyName(key: KeyText): string {
  return JSON.stringify(key);
}
