import type { ColumnType } from './relation.ts';

const SPELLING: Readonly<Record<string, string>> = {
  int2: 'smallint',
  int4: 'integer',
  int8: 'bigint',
  float4: 'real',
  float8: 'double precision',
  bool: 'boolean',
  bpchar: 'char',
  varbit: 'bit varying',
};

/** A column's type for people: `numeric(12,2)`, `varchar(5)[]`, `public.mood`. Not SQL for every type. */
export function typeName(type: ColumnType, modifier: number): string {
  if (type.kind === 'array' && type.of) return `${typeName(type.of, modifier)}[]`;
  if (type.schema !== 'pg_catalog') return `${type.schema}.${type.name}`;
  return `${SPELLING[type.name] ?? type.name}${suffix(type.name, modifier)}`;
}

function suffix(name: string, modifier: number): string {
  if (modifier < 0) return '';
  switch (name) {
    case 'numeric': {
      const packed = modifier - 4;
      return `(${(packed >> 16) & 0xffff},${((packed & 0x7ff) ^ 1024) - 1024})`;
    }
    case 'varchar':
    case 'bpchar':
      return `(${modifier - 4})`;
    case 'bit':
    case 'varbit':
    case 'time':
    case 'timetz':
    case 'timestamp':
    case 'timestamptz':
      return `(${modifier})`;
    default:
      return '';
  }
}
