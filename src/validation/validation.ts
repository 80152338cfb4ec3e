import type { ColumnType, Relation } from '../event/relation.ts';
import type { KeyText } from '../postgres/snapshots.ts';

/**
 * How both sides write a value for a digest. text: what PostgreSQL prints. binary: what its send function gives, in
 * hexadecimal after `\x`, where text would be slow to make in a sink (floating point, timestamps); NaN has one form.
 */
export type Form = 'text' | 'binary';

export interface DigestColumn {
  readonly name: string;
  /** Without domains. */
  readonly type: ColumnType;
  readonly form: Form;
  /** In a range's digest it is what the type's send function gives; else its text. */
  readonly sent: boolean;
}

/** What is compared of a table, in one order on both sides. */
export interface DigestTable {
  readonly relation: Relation;
  readonly columns: readonly DigestColumn[];
  /** What tells rows apart, in the order of the source's index; empty where nothing does. */
  readonly key: readonly DigestColumn[];
  /** Only rows with that value or a later one in the column. */
  readonly since: { readonly column: DigestColumn; readonly text: string } | null;
}

/** Rows with a key after `after`, up to and with `upto`, in the source's order; null = no bound. */
export interface KeyRange {
  readonly after: KeyText | null;
  readonly upto: KeyText | null;
}

export interface Digest {
  readonly rows: number;
  readonly hash: string;
}

/** `copies` is 1 for a table with a key. */
export interface RowDigest {
  readonly key: KeyText;
  readonly hash: string;
  readonly copies: number;
}

/** One cell per column of the table, long ones as their digest; null is NULL. */
export type Cells = readonly (string | null)[];

/** What a sink holds of a column; `ordered`: its order by `<` is the one that PostgreSQL's btree has for the type;
 * `sent`: what the type's send function gives is cheaply made of it. */
export interface HeldColumn {
  readonly form: Form;
  readonly sent: boolean;
  readonly ordered: boolean;
}

/** A foreign key of the source. Columns by name, in one order. */
export interface Reference {
  readonly from: Relation;
  readonly columns: readonly string[];
  readonly to: Relation;
  readonly toColumns: readonly string[];
}

export interface Orphan {
  readonly key: KeyText;
  readonly rows: number;
}

/** A store that can be compared with the source. Digests are made in the store: see row-text.ts for what exactly they are of. */
export interface Digestible {
  /** By name; null where the table is not held, or not followed. */
  describe(relation: Relation): Promise<ReadonlyMap<string, HeldColumn> | null>;
  /** Of ranges that do not overlap, in rising order; one digest for each. */
  digests(table: DigestTable, ranges: readonly KeyRange[], signal: AbortSignal): Promise<Digest[]>;
  rowDigests(table: DigestTable, ranges: readonly KeyRange[], signal: AbortSignal): Promise<RowDigest[]>;
  /** By key, as one string (`keyName`); every row of that key. */
  rows(
    table: DigestTable,
    keys: readonly KeyText[],
    signal: AbortSignal,
  ): Promise<ReadonlyMap<string, readonly Cells[]>>;
  /** Of a table whose keys have no common order: rows by a hash of their key (of the whole row where there is none) in `count` buckets. */
  buckets(table: DigestTable, count: number, signal: AbortSignal): Promise<Digest[]>;
  bucketRows(table: DigestTable, count: number, buckets: readonly number[], signal: AbortSignal): Promise<RowDigest[]>;
  /** Values of the foreign key that lead nowhere, at most so many. */
  orphans(reference: Reference, max: number, signal: AbortSignal): Promise<Orphan[]>;
}
