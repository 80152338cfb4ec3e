import type { Relation } from './relation.ts';

/** A column as the capture trigger describes it, for people and for sinks. */
export interface ColumnDefinition {
  readonly attnum: number;
  readonly name: string;
  /** As PostgreSQL spells it: `numeric(12,2)`. */
  readonly type: string;
  readonly notNull: boolean;
  /** The expression; null for none. */
  readonly default: string | null;
  /**
   * What rows of before the column have in it, in PostgreSQL's text form; null for NULL, absent where nobody knows: the
   * table was rewritten with it.
   */
  readonly existing?: string | null;
}

/**
 * What a message with SCHEMA_MESSAGE says, as JSON. Its relation is the table from here on; for a dropped one, as it was.
 * Columns match by their number: a sink that holds other numbers under these names holds other columns.
 */
export interface SchemaChange {
  readonly kind: 'altered' | 'dropped';
  /** PostgreSQL's command tag: `ALTER TABLE`, `DROP SCHEMA`. */
  readonly command: string;
  /** The name before, where it is another and known. */
  readonly from: { readonly schema: string; readonly table: string } | null;
  /**
   * What became of the values of rows that were there, of which the WAL says nothing. no: they are as before. cast: those
   * of columns that changed their type went through PostgreSQL's own cast, the others are as before. unknown: anything.
   */
  readonly rewritten: 'no' | 'cast' | 'unknown';
  /** Every column that is published, in the order of the relation. Empty for a dropped table. */
  readonly columns: readonly ColumnDefinition[];
}

/** Null where `content` is not what Waltide writes. */
export function readSchemaChange(content: Buffer): SchemaChange | null {
  try {
    const change = JSON.parse(content.toString()) as SchemaChange;
    return typeof change.command === 'string' && Array.isArray(change.columns) ? change : null;
  } catch {
    return null;
  }
}

/** True where both describe the same columns, key and identity: events of both may be encoded and applied alike. */
export function sameDescription(a: Relation, b: Relation): boolean {
  return (
    JSON.stringify({ ...a, columns: a.columns.map(withoutNumber) }) ===
    JSON.stringify({ ...b, columns: b.columns.map(withoutNumber) })
  );
}

function withoutNumber({ name, type, modifier }: Relation['columns'][number]): unknown {
  return [name, type, modifier];
}
