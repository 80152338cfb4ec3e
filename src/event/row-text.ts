import { isUtf8 } from 'node:buffer';
import type { Relation } from './relation.ts';
import { encodeTuple, Row } from './row.ts';

/** A longer value is named by its length: as a JavaScript string it might not exist. */
const TEXT_BYTES_MAX = 64 << 20;

/** A row as JSON, by column: text or NULL, bytes that are no text in hex, the length alone of a value that is too long. */
export type RowTexts = Readonly<Record<string, string | null | { readonly hex: string } | { readonly bytes: number }>>;

/** What names a row of the table: the texts of its key, or of all columns where there is none. */
export function rowName(relation: Relation, row: Row): string {
  const columns = relation.key.length > 0 ? relation.key : relation.columns.map((_, index) => index);
  return JSON.stringify(columns.map((column) => row.text(column) ?? null));
}

/** RowTexts as JSON; unchanged values are left out. */
export function rowJson(row: Row): string {
  const entries = row.relation.columns.flatMap(({ name }, column): [string, RowTexts[string]][] => {
    if (row.isUnchanged(column)) return [];
    if (row.isNull(column)) return [[name, null]];
    const bytes = row.bytes.subarray(row.starts()[column]! + 5, row.starts()[column + 1]!);
    if (bytes.length > TEXT_BYTES_MAX) return [[name, { bytes: bytes.length }]];
    return [[name, isUtf8(bytes) ? bytes.toString() : { hex: bytes.toString('hex') }]];
  });
  return JSON.stringify(Object.fromEntries(entries));
}

/** The row of `relation` with these values by the relation's columns; what is undefined counts as unchanged. */
export function rowOfTexts(relation: Relation, values: readonly (RowTexts[string] | undefined)[]): Row {
  const bytes = values.map((value) => {
    if (value === null || value === undefined || typeof value === 'string') return value;
    return 'hex' in value ? Buffer.from(value.hex, 'hex') : undefined;
  });
  return new Row(relation, encodeTuple(bytes), 0);
}
