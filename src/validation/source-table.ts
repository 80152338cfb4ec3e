import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { type Column, type ColumnType, type Relation, relationName } from '../event/relation.ts';
import { describeRelation, keyColumns, TypeCatalog } from '../postgres/catalog.ts';
import { queryError } from '../postgres/connection.ts';
import { type PublishedTable, publishedTables } from '../postgres/publication.ts';
import type { DigestColumn, DigestTable, HeldColumn } from './validation.ts';

export interface KeyColumn extends DigestColumn {
  /** As a cast names it. */
  readonly typeSql: string;
}

export interface MaskedColumn extends DigestColumn {
  readonly mask: (text: string) => string;
}

/** A table as both sides are read. */
export interface SourceTable extends DigestTable {
  readonly published: PublishedTable;
  readonly key: readonly KeyColumn[];
  /** True where the key's order is the same on both sides, so that ranges of it can be compared. */
  readonly ranged: boolean;
  readonly since: { readonly column: DigestColumn; readonly text: string; readonly typeSql: string } | null;
  /** Columns that leave the source masked: their digests are made here. */
  readonly masked: readonly MaskedColumn[];
  /** Columns that cannot be compared, such as those that the sink does not hold. */
  readonly absent: readonly string[];
  readonly isUtf8: boolean;
}

interface Described {
  readonly name: string;
  readonly typeSql: string;
  /** Text in the order of its bytes; any other type in an order of its own. */
  readonly bytewise: boolean;
}

/** Tables that are published now, under the names that they have now. */
export async function listSourceTables(client: pg.Client, publication: string): Promise<PublishedTable[]> {
  try {
    return await publishedTables(client, [publication, `${publication}_inserts`]);
  } catch (error) {
    throw queryError(error, 'listing the published tables');
  }
}

export async function relationOf(client: pg.Client, published: PublishedTable): Promise<Relation> {
  return describeRelation(client, new TypeCatalog(client), published, published.columns);
}

/** Of masked values. */
const TEXT: ColumnType = {
  ...{ oid: 25, name: 'text', schema: 'pg_catalog', kind: 'base', of: null },
  ...{ domainModifier: -1, delimiter: ',', labels: [] },
};

const COLUMNS = `
SELECT a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS "typeSql",
  CASE a.attcollation WHEN 0 THEN true
    WHEN 100 THEN (SELECT d.datcollate IN ('C', 'POSIX') OR COALESCE(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c') = 'b'
                   FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
    ELSE (SELECT COALESCE(c.collcollate IN ('C', 'POSIX'), false) FROM pg_catalog.pg_collation c WHERE c.oid = a.attcollation) END AS bytewise
FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped`;

/** `only`: columns to compare beside the key's; null for all. */
export async function describeSourceTable(
  client: pg.Client,
  published: PublishedTable,
  held: ReadonlyMap<string, HeldColumn>,
  relation: Relation,
  options: {
    readonly only: readonly string[] | null;
    /** What becomes of a column's values on their way out of the source; null for nothing. */
    readonly maskOf: (column: string) => ((text: string) => string) | null;
    readonly since: { readonly column: string; readonly text: string } | null;
  },
): Promise<SourceTable> {
  try {
    const names = await keyColumns(client, published.oid, published.replicaIdentity);
    const { rows } = await client.query<Described>(COLUMNS, [published.oid]);
    const described = new Map(rows.map((row) => [row.name, row]));
    const encoding = await client.query<{ encoding: string }>(
      `SELECT pg_catalog.current_setting('server_encoding') AS encoding`,
    );
    const column = (name: string): DigestColumn => {
      const found = relation.columns.find((one) => one.name === name)!;
      const { form = 'text', sent = false } = held.get(name) ?? {};
      return { name, type: baseOf(found.type), form, sent };
    };
    const compared = relation.columns.filter(({ name }) => held.has(name));
    const keyed =
      names.length > 0 && names.every((name) => held.has(name) && relation.columns.some((one) => one.name === name));
    const key = keyed ? names.map((name) => ({ ...column(name), typeSql: described.get(name)!.typeSql })) : [];
    const ranged = keyed && names.every((name) => held.get(name)!.ordered && described.get(name)!.bytewise);
    const wanted = ({ name }: Column): boolean =>
      options.only === null || names.includes(name) || options.only.includes(name);
    const chosen = compared.filter(wanted);
    const masked = chosen.flatMap(({ name }): MaskedColumn[] => {
      const mask = options.maskOf(name);
      return mask ? [{ name, type: TEXT, form: 'text', sent: false, mask }] : [];
    });
    return {
      published,
      relation,
      columns: chosen.filter(({ name }) => !options.maskOf(name)).map(({ name }) => column(name)),
      key,
      ranged,
      masked: ranged ? masked : [],
      since: options.since && sinceOf(relation, described, options.since, column),
      absent: [
        ...relation.columns.filter(({ name }) => !held.has(name)).map(({ name }) => name),
        ...(ranged ? [] : masked.map(({ name }) => name)),
      ],
      isUtf8: encoding.rows[0]!.encoding === 'UTF8',
    };
  } catch (error) {
    throw queryError(error, `describing ${relationName(relation)}`);
  }
}

function sinceOf(
  relation: Relation,
  described: ReadonlyMap<string, Described>,
  since: { readonly column: string; readonly text: string },
  column: (name: string) => DigestColumn,
): SourceTable['since'] {
  const found = relation.columns.find(({ name }) => name === since.column);
  if (!found || !/^(timestamptz?|date)$/.test(baseOf(found.type).name))
    throw new WaltideError(
      'USAGE',
      `${relationName(relation)} has no column "${since.column}" that is a date or timestamp`,
      'Name the column that says when a row was last written: --since-column, or validation.sinceColumn.',
    );
  return { column: column(since.column), text: since.text, typeSql: described.get(since.column)!.typeSql };
}

function baseOf(type: ColumnType): ColumnType {
  let base = type;
  while (base.kind === 'domain' && base.of) base = base.of;
  return base;
}
