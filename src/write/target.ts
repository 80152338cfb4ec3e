import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import type { ReplicaIdentity } from '../event/relation.ts';
import { keyColumns } from '../postgres/catalog.ts';
import { isMissing, queryError } from '../postgres/connection.ts';

export interface TargetColumn {
  readonly name: string;
  /** As SQL has it, with its modifier: `numeric(10,2)`. */
  readonly type: string;
  readonly generated: boolean;
  readonly published: boolean;
  /** Schema of the operator by which two of its values are equal: an extension's types bring their own. */
  readonly equality: string;
}

/** A captured table as it is now. */
export interface Target {
  readonly oid: number;
  readonly schema: string;
  readonly table: string;
  readonly columns: readonly TargetColumn[];
  /** Names of the key's columns; empty where there is none. */
  readonly key: readonly string[];
}

interface Found {
  oid: number;
  schema: string;
  table: string;
  identity: ReplicaIdentity;
}

const CAPTURED = `
SELECT c.oid::int8::float8 AS oid, n.nspname AS schema, c.relname AS "table", c.relreplident::text AS identity
FROM waltide.slots s CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(s.tables) t
JOIN pg_catalog.pg_class c ON c.oid = (t ->> 'oid')::int8::oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE s.slot_name = $1 AND t ->> 'leftLsn' IS NULL AND (n.nspname || '.' || c.relname = $2 OR c.relname = $2)
ORDER BY n.nspname || '.' || c.relname = $2 DESC`;

/** Lists of columns are of 15; by way of JSON, since a server knows only the columns of its version. */
const COLUMNS = `
SELECT a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, a.attgenerated <> '' AS generated,
       COALESCE(p.names ? a.attname, true) AS published,
       COALESCE((
         SELECT n.nspname FROM pg_catalog.pg_opclass c
         JOIN pg_catalog.pg_amop o ON o.amopfamily = c.opcfamily AND o.amopstrategy = 3
           AND o.amoplefttype = c.opcintype AND o.amoprighttype = c.opcintype
         JOIN pg_catalog.pg_operator e ON e.oid = o.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = e.oprnamespace
         WHERE c.opcdefault AND c.opcmethod = 403 AND c.opcintype = CASE WHEN y.typtype = 'd' THEN y.typbasetype ELSE y.oid END
       ), 'pg_catalog') AS equality
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
LEFT JOIN LATERAL (
  SELECT pg_catalog.to_jsonb(t) -> 'attnames' AS names FROM pg_catalog.pg_publication_tables t
  WHERE t.pubname = ANY ($2) AND t.schemaname = $3 AND t.tablename = $4 LIMIT 1
) p ON true
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`;

/**
 * Finds a table that is captured through `slot`. Rejects with TABLES where none or several of that name are, with
 * SOURCE_SETTINGS where nothing has been set up.
 */
export async function findTarget(
  client: pg.Client,
  { slot, publication }: { readonly slot: string; readonly publication: string },
  name: string,
): Promise<Target> {
  try {
    const { rows } = await client.query<Found>(CAPTURED, [slot, name]);
    const [found] = rows;
    if (!found) throw notCaptured(name);
    const whole = `${found.schema}.${found.table}` === name;
    if (rows.length > 1 && !whole) throw ambiguous(name, rows);
    const { oid, schema, table, identity } = found;
    const { rows: columns } = await client.query<TargetColumn>(COLUMNS, [
      oid,
      [publication, `${publication}_inserts`],
      schema,
      table,
    ]);
    return { oid, schema, table, columns, key: await keyColumns(client, oid, identity) };
  } catch (error) {
    if (isMissing(error))
      throw new WaltideError(
        'SOURCE_SETTINGS',
        'nothing of Waltide has been set up in the source',
        'Run `waltide setup` or `waltide run` first: it records which tables are captured.',
        { cause: error },
      );
    throw queryError(error, `looking for table "${name}"`);
  }
}

function notCaptured(name: string): WaltideError {
  return new WaltideError(
    'TABLES',
    `table "${name}" is not captured`,
    'Write it as schema.table; source.tables says which are captured, once `waltide run` has seen them.',
  );
}

function ambiguous(name: string, rows: readonly Found[]): WaltideError {
  const names = rows.map(({ schema, table }) => `${schema}.${table}`).join(', ');
  return new WaltideError('TABLES', `several tables are called "${name}": ${names}`, 'Name its schema too.');
}
