import { type Relation, relationName } from '../event/relation.ts';

/** The names of a table, by which the configuration may mean it. */
export type TableName = Pick<Relation, 'schema' | 'table' | 'home'>;

/** `*` any characters, `?` one; names match as they are. */
export function patternOf(pattern: string): RegExp {
  const source = pattern
    .replace(/[\\^$+.()|[\]{}]/g, '\\$&')
    .replace(/\*/g, '.*')
    .replace(/\?/g, '.');
  return new RegExp(`^${source}$`, 'su');
}

export const isExact = (pattern: string): boolean => !/[*?]/.test(pattern);

/** True where the pattern means the table by its name or by the one that it was first captured by: a rename takes none out. */
export function meansTable(pattern: RegExp, table: TableName): boolean {
  return pattern.test(relationName(table)) || (table.home !== undefined && pattern.test(relationName(table.home)));
}
