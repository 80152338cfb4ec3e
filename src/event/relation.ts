/** What a type is, resolved from the catalog of the source. `text` is PostgreSQL's own spelling without modifier. */
export interface ColumnType {
  readonly oid: number;
  /** `typname` of pg_type: `int8`, `numeric`, `_text`, `order_status`. */
  readonly name: string;
  readonly schema: string;
  readonly kind: 'base' | 'array' | 'enum' | 'domain' | 'composite' | 'range' | 'multirange' | 'unknown';
  /** Element type of an array, base type of a domain; null for all others. */
  readonly of: ColumnType | null;
  /** `typtypmod` of a domain (the modifier of its base type); -1 for all others. */
  readonly domainModifier: number;
  /** The character between array elements: `,` but `;` for box. */
  readonly delimiter: string;
  /** Labels of an enum in sort order; empty for all others. */
  readonly labels: readonly string[];
  /** OIDs of the labels, which stay when a label is renamed; absent where nobody has looked. */
  readonly labelOids?: readonly number[];
}

export interface Column {
  readonly name: string;
  /**
   * Number of the column in its table, which a rename keeps and which is never given twice; absent where only names are
   * known, as in what pgoutput tells by itself.
   */
  readonly attnum?: number;
  /**
   * What rows of before the column have in it: text (null for NULL), or `unknown` to anyone but the table. Absent where it
   * does not matter or an earlier schema change has told.
   */
  readonly existing?: { readonly text: string | null } | 'unknown';
  readonly type: ColumnType;
  /** `atttypmod`: ((precision << 16) | scale) + 4 for numeric; -1 where there is none. */
  readonly modifier: number;
}

/** d = primary key, n = nothing, f = all columns, i = an index (`relreplident`). */
export type ReplicaIdentity = 'd' | 'n' | 'f' | 'i';

/** A table as pgoutput described it. A changed table is a new object; events of before keep the old one. */
export interface Relation {
  readonly oid: number;
  readonly schema: string;
  readonly table: string;
  /** The name that it was first captured by, where it has another one now: its topic keeps that. */
  readonly home?: { readonly schema: string; readonly table: string };
  readonly replicaIdentity: ReplicaIdentity;
  readonly columns: readonly Column[];
  /**
   * Indexes into `columns` of what tells rows apart: the primary key (also under FULL) or the replica index.
   * Empty where nothing does.
   */
  readonly key: readonly number[];
}

/** `schema.table`, for people; dots inside names are not escaped, so never parse it back. */
export function relationName(relation: { readonly schema: string; readonly table: string }): string {
  return `${relation.schema}.${relation.table}`;
}

/** A map key that no two tables share. */
export function tableKey({ schema, table }: { readonly schema: string; readonly table: string }): string {
  return JSON.stringify([schema, table]);
}

/** `schema.table` as a person writes it; schema public may be left out. */
export function parseRelationName(text: string): { schema: string; table: string } {
  const dot = text.indexOf('.');
  return dot < 0 ? { schema: 'public', table: text } : { schema: text.slice(0, dot), table: text.slice(dot + 1) };
}
