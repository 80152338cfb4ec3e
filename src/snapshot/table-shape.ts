import pg from 'pg';
import { WaltideError } from '../errors.ts';
import type { Relation } from '../event/relation.ts';
import { describeRelation, keyColumns, TypeCatalog } from '../postgres/catalog.ts';
import { queryError } from '../postgres/connection.ts';
import { type PublishedTable, publishedTables } from '../postgres/publication.ts';
import type { KeyText, Layout } from '../postgres/snapshots.ts';

const { escapeIdentifier, escapeLiteral } = pg;

/** A table as a snapshot reads it. Made anew when the table changes. */
export interface TableShape {
  readonly table: PublishedTable;
  /** Under the name that the sinks know it by. */
  readonly relation: Relation;
  /** Columns of the key, as indexes of the relation's, in the order of its index; empty where nothing tells rows apart. */
  readonly key: readonly KeyColumn[];
  /** What `digestSql` gave: another digest is another shape. */
  readonly digest: string;
}

interface KeyColumn {
  readonly index: number;
  readonly name: string;
  /** As a cast names it. */
  readonly type: string;
  /** "Greater than" of the type's own order, which for an extension's type lies in a schema that no search_path has. */
  readonly greater: string;
}

/** One text, `digest`, that changes whenever the table's columns, key, replica identity or enum labels do. */
export function digestSql(oid: number): string {
  return `SELECT pg_catalog.json_build_array(n.nspname, c.relname, c.relreplident,
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(a.attnum, a.attname, a.atttypid::int8, a.atttypmod,
        (SELECT pg_catalog.json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e WHERE e.enumtypid = a.atttypid)) ORDER BY a.attnum)
     FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(i.indexrelid::int8, i.indkey::text, i.indisprimary, i.indisreplident, i.indimmediate) ORDER BY i.indexrelid)
     FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)))::text AS digest
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ${oid}`;
}

export function layoutOf({ digest, key }: TableShape): Layout {
  const columns = JSON.parse(digest)[3] as [number, string, number, number][];
  return {
    columns: Object.fromEntries(columns.map(([number, , type, modifier]) => [number, `${type}/${modifier}`])),
    key: key.map(({ name, type }) => `${name} ${type}`),
  };
}

/** True where rows read under `before` cannot stand beside rows read under `after`: a column came, changed its type, or the key is another. */
export function needsNewStart(before: Layout, after: Layout): boolean {
  const other = Object.entries(after.columns).some(([number, type]) => before.columns[number] !== type);
  return other || before.key.join() !== after.key.join();
}

/**
 * Reads the table's shape. `name` is what the sinks call it. Rejects with TABLES where it is gone or not published any
 * more, with SOURCE_RIGHTS where rows would be hidden from this role.
 */
export async function describeTable(
  client: pg.Client,
  publications: readonly string[],
  { oid, schema, table }: { readonly oid: number; readonly schema: string; readonly table: string },
): Promise<TableShape> {
  const what = `${schema}.${table}`;
  try {
    // One snapshot for all of these queries.
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    const { rows } = await client.query<{ digest: string }>(digestSql(oid));
    const published = (await publishedTables(client, publications)).find((one) => one.oid === oid);
    if (!rows[0] || !published)
      throw new WaltideError(
        'TABLES',
        rows[0] ? `table ${what} is not published any more` : `table ${what} does not exist any more`,
        'Check source.tables and the publication; `waltide publication show` lists what is published.',
      );
    checkReadable(published);
    const described = await describeRelation(client, new TypeCatalog(client), published, published.columns);
    const relation: Relation = { ...described, schema, table };
    const key = relation.key.length === 0 ? [] : await describeKey(client, relation, published);
    return { table: published, relation, key, digest: rows[0].digest };
  } catch (error) {
    throw queryError(error, `describing table ${what}`);
  } finally {
    await client.query('ROLLBACK').catch(() => {});
  }
}

/** Throws SOURCE_RIGHTS, naming every table of which this role cannot see every row: fewer rows would pass for all of them. */
export function checkReadable(...tables: readonly PublishedTable[]): void {
  const named = (which: (table: PublishedTable) => boolean): string =>
    tables
      .filter(which)
      .map(({ schema, table }) => `${schema}.${table}`)
      .join(', ');
  const closed = named(({ canSelect }) => !canSelect);
  const hidden = named(({ canSelect, rowSecurity }) => canSelect && rowSecurity);
  if (!closed && !hidden) return;
  const what = [
    ...(closed ? [`this role may not read ${closed}`] : []),
    ...(hidden ? [`row-level security would hide rows of ${hidden} from this role`] : []),
  ];
  const help = [
    ...(closed ? [`GRANT SELECT ON ${closed} TO this role`] : []),
    ...(hidden ? ['ALTER ROLE … BYPASSRLS'] : []),
  ];
  throw new WaltideError(
    'SOURCE_RIGHTS',
    what.join('; '),
    `Run ${help.join(' and ')}, or leave these tables out by source.exclude.`,
  );
}

async function describeKey(client: pg.Client, relation: Relation, table: PublishedTable): Promise<KeyColumn[]> {
  const names = await keyColumns(client, table.oid, table.replicaIdentity);
  const { rows } = await client.query<{ name: string; type: string; schema: string | null; operator: string | null }>(
    `SELECT a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, o.schema, o.operator
     FROM pg_catalog.pg_attribute a
     CROSS JOIN LATERAL (
       WITH RECURSIVE road(oid) AS (
         SELECT a.atttypid UNION ALL SELECT d.typbasetype FROM road JOIN pg_catalog.pg_type d ON d.oid = road.oid WHERE d.typtype = 'd')
       SELECT road.oid FROM road JOIN pg_catalog.pg_type t ON t.oid = road.oid WHERE t.typtype <> 'd') base
     LEFT JOIN LATERAL (
       SELECT n.nspname AS schema, op.oprname AS operator
       FROM pg_catalog.pg_opclass c JOIN pg_catalog.pg_am am ON am.oid = c.opcmethod AND am.amname = 'btree'
       JOIN pg_catalog.pg_amop ao ON ao.amopfamily = c.opcfamily AND ao.amoplefttype = c.opcintype AND ao.amoprighttype = c.opcintype AND ao.amopstrategy = 5
       JOIN pg_catalog.pg_operator op ON op.oid = ao.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = op.oprnamespace
       WHERE c.opcdefault AND c.opcintype = base.oid) o ON true
     WHERE a.attrelid = $1 AND a.attname = ANY($2)`,
    [table.oid, names],
  );
  return names.map((name) => {
    const { type, schema, operator } = rows.find((row) => row.name === name)!;
    const greater = `OPERATOR(${escapeIdentifier(schema ?? 'pg_catalog')}.${operator ?? '>'})`;
    return { index: relation.columns.findIndex((column) => column.name === name), name, type, greater };
  });
}

function literals(key: readonly KeyColumn[], values: KeyText): string[] {
  return key.map(({ type }, i) => `CAST(${escapeLiteral(values[i]!)} AS ${type})`);
}

/** Rows after `cursor` in the order of the key. One comparison of rows where one operator serves: an index can answer it. */
function after(key: readonly KeyColumn[], cursor: KeyText): string {
  const names = key.map(({ name }) => escapeIdentifier(name));
  const values = literals(key, cursor);
  if (key.every(({ greater }) => greater === key[0]!.greater))
    return key.length === 1
      ? `${names[0]} ${key[0]!.greater} ${values[0]}`
      : `ROW(${names.join(', ')}) ${key[0]!.greater} ROW(${values.join(', ')})`;
  // (a > 1) OR (a = 1 AND b > 2) …: what a comparison of rows means; "not greater and not less" is the types' own equality.
  const terms = key.map(({ greater }, i) => {
    const equal = key
      .slice(0, i)
      .map(
        (column, j) => `NOT (${names[j]} ${column.greater} ${values[j]} OR ${values[j]} ${column.greater} ${names[j]})`,
      );
    return `(${[...equal, `${names[i]} ${greater} ${values[i]}`].join(' AND ')})`;
  });
  return `(${terms.join(' OR ')})`;
}

/** Which rows of a table to read. */
export type Selection =
  | { readonly after: KeyText | null; readonly limit: number }
  | { readonly keys: readonly KeyText[] };

export function targetOf({ table }: Pick<TableShape, 'table'>): string {
  return `${escapeIdentifier(table.schema)}.${escapeIdentifier(table.table)}`;
}

/** ONLY: children of inheritance are tables of their own; partitions are not. */
export function fromOf(shape: Pick<TableShape, 'table'>): string {
  return `${shape.table.kind === 'p' ? '' : 'ONLY '}${targetOf(shape)}`;
}

/** The rows, in the order of the key. `where` is the operator's own condition. */
export function selectSql(shape: TableShape, selection: Selection, where: string | null): string {
  const { relation, key, table } = shape;
  const columns = relation.columns.map(({ name }) => escapeIdentifier(name)).join(', ');
  const names = key.map(({ name }) => escapeIdentifier(name)).join(', ');
  const conditions: string[] = [];
  if (table.rowFilter) conditions.push(`(${table.rowFilter})`);
  if (where) conditions.push(`(${where}\n)`);
  if ('keys' in selection)
    conditions.push(
      `(${names}) IN (${selection.keys.map((values) => `(${literals(key, values).join(', ')})`).join(', ')})`,
    );
  else if (selection.after) conditions.push(after(key, selection.after));
  const filter = conditions.length > 0 ? ` WHERE ${conditions.join(' AND ')}` : '';
  const limit = 'keys' in selection ? '' : ` LIMIT ${selection.limit}`;
  return `SELECT ${columns} FROM ${fromOf(shape)}${filter} ORDER BY ${names}${limit}`;
}

/**
 * Throws USAGE unless `where` is one boolean expression over the table's columns. It is the operator's own SQL; but what
 * closes a parenthesis that it did not open would take the chunk's other conditions apart.
 */
export async function checkWhere(client: pg.Client, shape: TableShape, where: string): Promise<void> {
  try {
    // A parameter makes it the extended protocol, which takes one statement. Brackets and parentheses catch each other's escapes.
    for (const expression of [`(ARRAY[${where}\n])[1]`, `(${where}\n)`])
      await client.query(`SELECT FROM ${fromOf(shape)} WHERE ${expression} AND $1::int IS NULL LIMIT 0`, [0]);
  } catch (error) {
    const why = await whyNoCondition(client, shape, where);
    throw new WaltideError(
      'USAGE',
      `the condition ${JSON.stringify(where)} is not one for table ${shape.table.schema}.${shape.table.table}: ${why}`,
      'Give one SQL expression over its columns, such as --where "id > 1000"; functions outside pg_catalog need their schema.',
      { cause: error },
    );
  }
}

/** What PostgreSQL says of the condition alone, without the brackets of ours around it. */
async function whyNoCondition(client: pg.Client, shape: TableShape, where: string): Promise<string> {
  if (where.trim() === '') return 'it is empty';
  // Planned and never run; the extended protocol takes one statement.
  const text = `EXPLAIN SELECT FROM ${fromOf(shape)} WHERE ${where}`;
  const query: pg.QueryConfig & { readonly queryMode: 'extended' } = { text, queryMode: 'extended' };
  try {
    await client.query(query);
  } catch (error) {
    return (error as Error).message;
  }
  return 'it is more than one expression';
}
