import { messageOf, RejectedError } from '../../errors.ts';
import type { Relation } from '../../event/relation.ts';

/** The RejectedError for one column's value or type. */
export function excerptError(relation: Relation, column: string, cause: unknown): RejectedError {
  const { schema, table } = relation;
  return new RejectedError(schema, table, `column "${column}" of ${schema}.${table}: ${messageOf(cause)}`, { cause });
}

/** The RejectedError for a statement of one table that DuckDB refused: its first line, never a long value. */
export function statementError(
  { schema, table }: { readonly schema: string; readonly table: string },
  cause: unknown,
): RejectedError {
  const line = messageOf(cause).split('\n', 1)[0]!;
  const message = line.length > 300 ? `${line.slice(0, 300)}…` : line;
  return new RejectedError(schema, table, `${schema}.${table}: ${message}`, { cause });
}
