import { createHash } from 'node:crypto';
import type { ColumnType } from '../event/relation.ts';
import type { KeyText } from '../postgres/snapshots.ts';

/*
 * The text of a row that digests are of, the same to the byte in every store. Fields are parted by U+0001. A field whose
 * text may hold one stands after its length in bytes of UTF-8 and a colon, so that no two rows have one text; NULL is
 * empty there and has no length. A row of more than SHORT_BYTES counts as its SHA-256. A range's digest is the SHA-256 of
 * its rows in the order of the key, one per line.
 */

export const SHORT_BYTES = 256;
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
