import type { Transaction } from '../../src/event/change-event.ts';
import type { ColumnType, Relation, ReplicaIdentity } from '../../src/event/relation.ts';
import { encodeTuple, Row } from '../../src/event/row.ts';

const OIDS: Readonly<Record<string, number>> = {
  bool: 16,
  bytea: 17,
  int8: 20,
  int2: 21,
  int4: 23,
  text: 25,
  oid: 26,
  xid: 28,
  json: 114,
  xml: 142,
  box: 603,
  float4: 700,
  float8: 701,
  money: 790,
  inet: 869,
  date: 1082,
  time: 1083,
  timestamp: 1114,
  timestamptz: 1184,
  interval: 1186,
  timetz: 1266,
  varbit: 1562,
  numeric: 1700,
  uuid: 2950,
  jsonb: 3802,
  int4range: 3904,
};

export function baseTypeOf(name: string): ColumnType {
  const kind = 'base';
  const delimiter = name === 'box' ? ';' : ',';
  return { oid: OIDS[name]!, name, schema: 'pg_catalog', kind, of: null, domainModifier: -1, delimiter, labels: [] };
}

export function arrayOf(of: ColumnType): ColumnType {
  return { ...of, oid: of.oid + 1_000, name: `_${of.name}`, kind: 'array', of, labels: [] };
}

export function domainOf(of: ColumnType): ColumnType {
  return { ...of, oid: 20_000, name: 'dom', schema: 'public', kind: 'domain', of };
}

export function userType(name: string, kind: ColumnType['kind']): ColumnType {
  return { ...baseTypeOf('text'), oid: 30_000, name, schema: 'public', kind };
}

export function relationOf(
  columns: readonly (readonly [string, ColumnType])[],
  key: readonly number[] = [0],
  replicaIdentity: ReplicaIdentity = 'd',
): Relation {
  return {
    oid: 16_400,
    schema: 'public',
    table: 'things',
    replicaIdentity,
    columns: columns.map(([name, type]) => ({ name, type, modifier: -1 })),
    key,
  };
}

export function rowOf(relation: Relation, values: readonly (string | null | undefined)[]): Row {
  // Not at offset 0, so that code which forgets `at` is found out.
  return new Row(relation, Buffer.concat([Buffer.from('pad'), encodeTuple(values)]), 3);
}

export function textsOf(row: Row | null): (string | null | undefined)[] | null {
  return row ? row.relation.columns.map((_, i) => row.text(i)) : null;
}

export const TRANSACTION: Transaction = {
  xid: 777,
  commitLsn: 0x16_b374d848n,
  commitTimeUs: 1_795_318_346_558_123n,
  snapshot: null,
  origin: null,
};
