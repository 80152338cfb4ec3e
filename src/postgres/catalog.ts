import type pg from 'pg';
import { parseArray } from '../event/array-text.ts';
import type { Column, ColumnType, Relation, ReplicaIdentity } from '../event/relation.ts';
import { queryError } from './connection.ts';

/** A row of pg_type, as `TYPES` below and the capture trigger (sql/ddl-capture.sql) read it. */
export interface TypeRow {
  oid: number;
  name: string;
  schema: string;
  typtype: string;
  elem: number;
  is_array: boolean;
  base: number;
  modifier: number;
  delimiter: string;
  labels: string[];
  label_oids: number[];
}

const TYPES = `
SELECT t.oid::int8::float8 AS oid, t.typname AS name, n.nspname AS schema, t.typtype::text,
       t.typelem::int8::float8 AS elem, t.typbasetype::int8::float8 AS base, t.typtypmod AS modifier,
       t.typdelim::text AS delimiter,
       t.typlen = -1 AND t.typelem <> 0 AND EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid) AS is_array,
       COALESCE((SELECT array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_catalog.pg_enum WHERE enumtypid = t.oid), '{}') AS labels,
       COALESCE((SELECT array_agg(oid::int8::float8 ORDER BY enumsortorder) FROM pg_catalog.pg_enum WHERE enumtypid = t.oid), '{}') AS label_oids
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype <> 'p' AND ($1::oid[] IS NULL OR t.oid = ANY($1))`;

const KINDS: Record<string, ColumnType['kind']> = {
  b: 'base',
  c: 'composite',
  d: 'domain',
  e: 'enum',
  r: 'range',
  m: 'multirange',
};

/** What types are, read from pg_type: pgoutput names a type by OID alone. Loaded whole once, then as OIDs turn up. */
export class TypeCatalog {
  readonly #client: pg.Client;
  readonly #rows = new Map<number, TypeRow>();
  readonly #types = new Map<number, ColumnType>();

  constructor(client: pg.Client) {
    this.#client = client;
  }

  /** Types not seen yet are read from the server; an OID that is gone by now becomes `unknown`, which is text. */
  async resolve(oids: readonly number[]): Promise<void> {
    const missing = oids.filter((oid) => !this.#rows.has(oid));
    if (missing.length === 0) return;
    try {
      const first = this.#rows.size === 0;
      const { rows } = await this.#client.query<TypeRow>(TYPES, [first ? null : missing]);
      for (const row of rows) this.#rows.set(row.oid, row);
    } catch (error) {
      throw queryError(error, 'reading pg_type');
    }
    const parents = missing.flatMap((oid) => {
      const row = this.#rows.get(oid);
      return row ? [row.elem, row.base].filter((parent) => parent !== 0) : [];
    });
    await this.resolve(parents.filter((oid) => !this.#rows.has(oid)));
  }

  /** Takes in types as they were at some point of the stream, which the catalog may have left behind. */
  learn(rows: readonly TypeRow[]): void {
    if (rows.length === 0) return;
    for (const row of rows) this.#rows.set(row.oid, row);
    // Arrays and domains hold their element and base type.
    for (const [oid, type] of this.#types)
      if (oid >= FIRST_USER_OID || type.kind === 'unknown') this.#types.delete(oid);
  }

  /** A type that `resolve` was asked for. */
  type(oid: number): ColumnType {
    const known = this.#types.get(oid);
    if (known) return known;
    const row = this.#rows.get(oid);
    const type = row ? this.#build(row) : unknownType(oid);
    this.#types.set(oid, type);
    return type;
  }

  /** Forgets user-defined types, since enum labels and domains can change; built-in ones never do. */
  forget(): void {
    for (const oid of [...this.#rows.keys()]) if (oid >= FIRST_USER_OID) this.#rows.delete(oid);
    this.#types.clear();
  }

  #build(row: TypeRow): ColumnType {
    const kind = row.is_array ? 'array' : (KINDS[row.typtype] ?? 'unknown');
    const parent = kind === 'array' ? row.elem : kind === 'domain' ? row.base : 0;
    return {
      oid: row.oid,
      name: row.name,
      schema: row.schema,
      kind,
      of: parent === 0 ? null : this.type(parent),
      domainModifier: kind === 'domain' ? row.modifier : -1,
      delimiter: kind === 'array' ? (this.#rows.get(row.elem)?.delimiter ?? ',') : ',',
      labels: row.labels,
      ...(row.labels.length > 0 ? { labelOids: row.label_oids } : {}),
    };
  }
}

/** FirstNormalObjectId of PostgreSQL: everything below belongs to the system. */
const FIRST_USER_OID = 16384;

function unknownType(oid: number): ColumnType {
  return {
    oid,
    name: `oid_${oid}`,
    schema: '',
    kind: 'unknown',
    of: null,
    domainModifier: -1,
    delimiter: ',',
    labels: [],
  };
}

/** A table that the publication could carry, and what decides whether it can. */
export interface TableInfo {
  readonly oid: number;
  readonly schema: string;
  readonly table: string;
  /** r = table, p = partitioned, f = foreign, m = materialised view, v = view (`relkind`). */
  readonly kind: string;
  readonly persistence: 'p' | 'u' | 't';
  readonly isPartition: boolean;
  /** Of a partitioned table: one of its partitions whose rows are not in the WAL, in words; else null. */
  readonly unloggedPartition: string | null;
  readonly replicaIdentity: ReplicaIdentity;
  readonly hasPrimaryKey: boolean;
  readonly rowSecurity: boolean;
  readonly canSelect: boolean;
  /** Only who owns a table may put it into a publication. */
  readonly owned: boolean;
  readonly estimatedRows: number;
}

const TABLES = `
SELECT c.oid::int8::float8 AS oid, n.nspname AS schema, c.relname AS table, c.relkind::text AS kind, c.relpersistence::text AS persistence,
       c.relispartition AS "isPartition",
       CASE WHEN c.relkind = 'p' THEN (
         SELECT pn.nspname || '.' || p.relname || CASE WHEN p.relkind = 'f' THEN ' is a foreign table' ELSE ' is UNLOGGED' END
         FROM pg_catalog.pg_partition_tree(c.oid) t JOIN pg_catalog.pg_class p ON p.oid = t.relid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
         WHERE t.isleaf AND (p.relkind = 'f' OR p.relpersistence = 'u') ORDER BY 1 LIMIT 1) END AS "unloggedPartition",
       c.relreplident::text AS "replicaIdentity",
       EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate) AS "hasPrimaryKey",
       c.relrowsecurity AND NOT (SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user) AS "rowSecurity",
       pg_catalog.has_table_privilege(c.oid, 'SELECT') AS "canSelect", pg_catalog.pg_has_role(c.relowner, 'USAGE') AS owned,
       GREATEST(c.reltuples, 0)::float8 AS "estimatedRows"
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'm', 'v') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'waltide')
  AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%'
ORDER BY n.nspname, c.relname`;

export async function listTables(client: pg.Client): Promise<TableInfo[]> {
  try {
    return (await client.query<TableInfo>(TABLES)).rows;
  } catch (error) {
    throw queryError(error, 'listing tables');
  }
}

/**
 * Columns of the primary key or of the replica index. A deferrable key is none: PostgreSQL does not take it as replica
 * identity, and two rows may hold the same key in the middle of a transaction.
 */
const KEY = `
SELECT a.attname AS name
FROM pg_catalog.pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, position)
JOIN pg_catalog.pg_attribute a ON a.attnum = k.attnum
WHERE i.indrelid = $1 AND a.attrelid = $1 AND k.position <= i.indnkeyatts
  AND i.indimmediate AND CASE WHEN $2 = 'i' THEN i.indisreplident ELSE i.indisprimary END
ORDER BY k.position`;

/** Names of the columns that tell rows apart; empty where nothing does. */
export async function keyColumns(client: pg.Client, oid: number, identity: ReplicaIdentity): Promise<string[]> {
  try {
    const { rows } = await client.query<{ name: string }>(KEY, [oid, identity]);
    return rows.map((row) => row.name);
  } catch (error) {
    throw queryError(error, 'reading the key of a table');
  }
}

const EXISTING = `
SELECT a.attname AS name, a.atttypid::int8::float8 AS oid, a.atttypmod AS modifier, t.typdelim AS delimiter,
  a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> '' OR t.typdefault IS NOT NULL AS "hasDefault",
  CASE WHEN c.relkind = 'p' THEN (
      SELECT l.attmissingval::text FROM pg_catalog.pg_partition_tree(c.oid) p JOIN pg_catalog.pg_attribute l ON l.attrelid = p.relid
      WHERE p.isleaf AND l.attname = a.attname AND NOT l.attisdropped AND l.atthasmissing LIMIT 1)
    WHEN a.atthasmissing THEN a.attmissingval::text END AS missing
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = ANY($2)`;

/**
 * What rows of before these columns hold in them, as far as the catalog still tells: PostgreSQL keeps a constant default
 * until the table is rewritten.
 */
export async function existingValues(
  client: pg.Client,
  oid: number,
  columns: readonly Column[],
): Promise<Map<string, NonNullable<Column['existing']>>> {
  try {
    const { rows } = await client.query<{
      name: string;
      oid: number;
      modifier: number;
      delimiter: string;
      hasDefault: boolean;
      missing: string | null;
    }>(EXISTING, [oid, columns.map(({ name }) => name)]);
    const existing = ({ name, type, modifier }: Column): NonNullable<Column['existing']> => {
      const row = rows.find((one) => one.name === name);
      if (!row || row.oid !== type.oid || row.modifier !== modifier) return 'unknown';
      if (row.missing === null) return row.hasDefault ? 'unknown' : { text: null };
      const [text] = parseArray(row.missing, row.delimiter).elements;
      return typeof text === 'string' ? { text } : 'unknown';
    };
    return new Map(columns.map((column) => [column.name, existing(column)]));
  } catch (error) {
    throw queryError(error, 'reading the columns of a table');
  }
}

const COLUMNS = `
SELECT attnum, attname AS name, atttypid::int8::float8 AS oid, atttypmod AS modifier
FROM pg_catalog.pg_attribute
WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attname = ANY($2)
ORDER BY attnum`;

/** A column as the catalog has it now. */
export interface CatalogColumn {
  readonly attnum: number;
  readonly name: string;
  readonly typeOid: number;
  readonly modifier: number;
}

/** Columns of tables by OID, in the order of their numbers. */
export async function catalogColumns(
  client: pg.Client,
  oids: readonly number[],
): Promise<Map<number, readonly CatalogColumn[]>> {
  const found = new Map<number, CatalogColumn[]>(oids.map((oid) => [oid, []]));
  try {
    const { rows } = await client.query<CatalogColumn & { oid: number }>(
      `SELECT attrelid::int8::float8 AS oid, attnum, attname AS name, atttypid::int8::float8 AS "typeOid", atttypmod AS modifier
       FROM pg_catalog.pg_attribute WHERE attrelid = ANY($1::oid[]) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum`,
      [oids],
    );
    for (const { oid, ...column } of rows) found.get(oid)!.push(column);
    return found;
  } catch (error) {
    throw queryError(error, 'reading the columns of tables');
  }
}

/** The relation as pgoutput will describe it, for a snapshot that comes before its first Relation message. */
export async function describeRelation(
  client: pg.Client,
  types: TypeCatalog,
  table: { oid: number; schema: string; table: string; replicaIdentity: ReplicaIdentity },
  columnNames: readonly string[],
): Promise<Relation> {
  const { rows } = await client.query<{ attnum: number; name: string; oid: number; modifier: number }>(COLUMNS, [
    table.oid,
    columnNames,
  ]);
  await types.resolve(rows.map((row) => row.oid));
  const columns: Column[] = rows.map(({ attnum, name, oid, modifier }) => ({
    name,
    attnum,
    type: types.type(oid),
    modifier,
  }));
  const names = await keyColumns(client, table.oid, table.replicaIdentity);
  const key = names.map((name) => columns.findIndex((column) => column.name === name));
  const { oid, schema, table: name, replicaIdentity } = table;
  return { oid, schema, table: name, replicaIdentity, columns, key: key.includes(-1) ? [] : key.sort((a, b) => a - b) };
}
