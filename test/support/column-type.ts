import type { ColumnType } from '../../src/event/relation.ts';

/** A type of pg_catalog by name, or any other by what differs. */
export function columnType(name: string, extra: Partial<ColumnType> = {}): ColumnType {
  const base = {
    oid: 1,
    name,
    schema: 'pg_catalog',
    kind: 'base',
    of: null,
    domainModifier: -1,
    delimiter: ',',
    labels: [],
  } as const;
  return { ...base, ...extra };
}
