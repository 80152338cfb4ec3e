import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { listTables, type TableInfo } from './catalog.ts';
import { queryError, sqlState } from './connection.ts';

/** Tells someone; the fields say of what. */
export type Warn = (fields: object, message: string) => void;

/** Written as the comment of a publication that Waltide made, and may therefore alter. */
const OURS = 'managed by waltide';

export interface PublicationOptions {
  readonly publication: string;
  readonly tables: readonly string[];
  readonly exclude: readonly string[];
  readonly keylessTables: 'exclude' | 'insert-only';
}

/** One table as the publication publishes it. */
export interface PublishedTable extends TableInfo {
  readonly columns: readonly string[];
  /** True where one of these columns is generated. */
  readonly generated: boolean;
  /** SQL expression of the row filter; null for all rows. */
  readonly rowFilter: string | null;
  /** See CapturedTable. */
  readonly membership: string;
}

/** What the configuration asks for, held against what is there. */
export interface TableSelection {
  readonly tables: readonly TableInfo[];
  /** Insert-only: published for INSERT and TRUNCATE alone, so that the application's UPDATE and DELETE go on working. */
  readonly keyless: readonly TableInfo[];
  readonly left: readonly { readonly name: string; readonly why: string }[];
}

/** `public.*`, `*.orders`, `public.order_?`: `*` any characters, `?` one. Only `.` separates; names match as they are. */
export function matchesPattern(pattern: string, schema: string, table: string): boolean {
  const source = pattern
    .replace(/[\\^$+.()|[\]{}]/g, '\\$&')
    .replace(/\*/g, '.*')
    .replace(/\?/g, '.');
  const full = pattern.includes('.') ? `${schema}.${table}` : table;
  return new RegExp(`^${source}$`, 'su').test(full);
}

function isAsked(table: TableInfo, { tables, exclude }: PublicationOptions): boolean {
  return matchesAny(table, tables) && !matchesAny(table, exclude);
}

function matchesAny({ schema, table }: TableInfo, patterns: readonly string[]): boolean {
  return patterns.some((pattern) => matchesPattern(pattern, schema, table));
}

/**
 * Throws TABLES where a pattern without wildcards names no table or one that cannot be published, or where nothing is left at all.
 * `mayBeGone`: after the first copy a table that no longer exists is a warning of the caller's, not an error.
 */
export function selectTables(
  all: readonly TableInfo[],
  options: PublicationOptions,
  mayBeGone = false,
): TableSelection {
  const matching = all.filter((table) => isAsked(table, options));
  const faults = options.tables
    .filter(
      (pattern) =>
        !all.some(
          (table) => table.kind !== 'v' && table.kind !== 'm' && matchesPattern(pattern, table.schema, table.table),
        ),
    )
    .map((pattern) => `"${pattern}" matches no table`);
  const tables: TableInfo[] = [];
  const keyless: TableInfo[] = [];
  const left: { name: string; why: string }[] = [];
  const literal = options.tables.filter((pattern) => !/[*?]/.test(pattern));
  let refused = false;
  for (const table of matching) {
    const why = cannotPublish(table);
    const named = matchesAny(table, literal);
    // Partitions go with their root.
    if (table.isPartition || ((table.kind === 'v' || table.kind === 'm') && !named)) continue;
    if (why) {
      left.push({ name: `${table.schema}.${table.table}`, why });
      refused ||= named;
    } else if (hasIdentity(table)) tables.push(table);
    else if (options.keylessTables === 'insert-only') keyless.push(table);
    else
      left.push({
        name: `${table.schema}.${table.table}`,
        why: 'it has no primary key, so publishing it would make UPDATE and DELETE fail; add a key, or REPLICA IDENTITY FULL, or set source.keylessTables: insert-only',
      });
  }
  if (!mayBeGone && (refused || faults.length > 0 || tables.length + keyless.length === 0)) {
    const reasons = [...faults, ...left.map((table) => `${table.name} is left out: ${table.why}`)];
    throw new WaltideError(
      'TABLES',
      `source.tables: ${reasons.join('; ') || 'nothing matches'}`,
      'Patterns are schema.table with * and ?, such as "public.*"; correct source.tables or source.exclude.',
    );
  }
  return { tables, keyless, left };
}

function cannotPublish(table: TableInfo): string | null {
  if (table.kind === 'f') return "it is a foreign table; its rows are not in this server's WAL";
  if (table.kind === 'v' || table.kind === 'm') return 'it is a view; replicate the tables beneath it';
  if (table.persistence === 'u') return 'it is UNLOGGED, so its changes are not in the WAL; ALTER TABLE … SET LOGGED';
  if (table.unloggedPartition)
    return `its partition ${table.unloggedPartition}, so changes there are not in the WAL; SET LOGGED or DETACH it`;
  return null;
}

function hasIdentity(table: TableInfo): boolean {
  if (table.replicaIdentity === 'f' || table.replicaIdentity === 'i') return true;
  return table.replicaIdentity === 'd' && table.hasPrimaryKey;
}

interface PublicationRow {
  name: string;
  ours: boolean;
  alltables: boolean;
  viaroot: boolean;
  /** As `publish` names them. */
  operations: string;
}

const ALL_OPERATIONS = 'insert, update, delete, truncate';
const INSERTS = 'insert, truncate';

async function readPublication(client: pg.Client, name: string): Promise<PublicationRow | null> {
  const { rows } = await client.query<PublicationRow>(
    `SELECT pubname AS name, pg_catalog.obj_description(oid, 'pg_publication') IS NOT DISTINCT FROM $2 AS ours, puballtables AS alltables,
            pubviaroot AS viaroot, pg_catalog.concat_ws(', ', CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
              CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END) AS operations
     FROM pg_catalog.pg_publication WHERE pubname = $1`,
    [name, OURS],
  );
  return rows[0] ?? null;
}

export interface EnsuredPublication {
  /** For START_REPLICATION's publication_names. */
  readonly names: readonly string[];
  /** What is published of what was asked for. */
  readonly tables: readonly PublishedTable[];
  readonly left: TableSelection['left'];
  /** Tables that match and that someone else's publication does not carry. */
  readonly missing: readonly TableInfo[];
  /** OIDs of tables that it carries and that nobody asked for. */
  readonly unasked: ReadonlySet<number>;
}

/** SQLSTATEs of what happens where tables or the publication are created, renamed and dropped meanwhile: looking again helps. */
const MOVING = new Set(['42P01', '3F000', '42704', '42710', '23505', 'XX000']);
const LOOKS_MAX = 10;
const LOOK_AGAIN_MS = 100;

/**
 * Creates the publication, or alters one of ours, until it carries what `options` ask for. Someone else's publication is
 * used as it is, and must carry every table asked for, unless a slot is `streaming` already: then what is missing is told.
 * A fault is thrown as PUBLICATION or TABLES.
 */
export async function ensurePublication(
  client: pg.Client,
  options: PublicationOptions,
  warn: Warn,
  streaming: boolean,
): Promise<EnsuredPublication> {
  for (let look = 1; ; look++) {
    try {
      return await lookOnce(client, options, warn, streaming);
    } catch (error) {
      if (look === LOOKS_MAX || !MOVING.has(sqlState(error) ?? ''))
        throw queryError(error, `preparing publication "${options.publication}"`);
      await client.query('ROLLBACK');
      await sleep(LOOK_AGAIN_MS);
    }
  }
}

async function lookOnce(
  client: pg.Client,
  options: PublicationOptions,
  warn: Warn,
  streaming: boolean,
): Promise<EnsuredPublication> {
  const { tables: wanted, keyless, left } = selectTables(await listTables(client), options, streaming);
  const names = [options.publication];
  const row = await readPublication(client, options.publication);
  if (row && !row.ours) return await adopt(client, row, [...wanted, ...keyless], left, options, streaming, warn);
  await align(client, options.publication, row, wanted, ALL_OPERATIONS, streaming, warn);
  const inserts = `${options.publication}_inserts`;
  const second = await readPublication(client, inserts);
  if (keyless.length > 0 || second?.ours) {
    await align(client, inserts, second, keyless, INSERTS, streaming, warn);
    names.push(inserts);
  }
  return { names, tables: await publishedTables(client, names), left, missing: [], unasked: new Set() };
}

async function membersOf(client: pg.Client, name: string): Promise<{ oid: number; schema: string; table: string }[]> {
  const { rows } = await client.query<{ oid: number; schema: string; table: string }>(
    `SELECT prrelid::int8::float8 AS oid, nspname AS schema, relname AS table FROM pg_catalog.pg_publication_rel r
     JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE pubname = $1`,
    [name],
  );
  return rows;
}

/** Makes one publication of ours carry exactly `wanted`, and these operations on them. */
async function align(
  client: pg.Client,
  name: string,
  row: PublicationRow | null,
  wanted: readonly TableInfo[],
  operations: string,
  streaming: boolean,
  warn: Warn,
): Promise<void> {
  const quoted = client.escapeIdentifier(name);
  const how = `publish = '${operations}', publish_via_partition_root = true`;
  // ONLY: children of inheritance are tables of their own, and come and go as such.
  const list = (tables: readonly { readonly schema: string; readonly table: string }[]): string =>
    tables
      .map(({ schema, table }) => `ONLY ${client.escapeIdentifier(schema)}.${client.escapeIdentifier(table)}`)
      .join(', ');
  const members = row ? await membersOf(client, name) : [];
  const have = new Set(members.map((member) => member.oid));
  // At the first set-up a person is there to be told by an error; later one table does not stop the others.
  const foreign = wanted.filter((table) => streaming && !table.owned && !have.has(table.oid));
  for (const { schema, table } of foreign)
    warn(
      { table: `${schema}.${table}` },
      'table is left out: this role does not own it, so it cannot publish it; GRANT <owner of the table> TO this role, or ALTER TABLE … OWNER TO it',
    );
  const missing = wanted.filter((table) => !have.has(table.oid) && !foreign.includes(table));
  if (!row) {
    await client.query('BEGIN');
    await client.query(
      `CREATE PUBLICATION ${quoted} ${missing.length ? `FOR TABLE ${list(missing)}` : ''} WITH (${how})`,
    );
    await client.query(`COMMENT ON PUBLICATION ${quoted} IS '${OURS}'`);
    await client.query('COMMIT');
    return;
  }
  if (row.operations !== operations || !row.viaroot) {
    const was = `publish = '${row.operations}', publish_via_partition_root = ${row.viaroot}`;
    warn({ publication: name, was }, 'the publication was altered by hand: it is set back');
    await client.query(`ALTER PUBLICATION ${quoted} SET (${how})`);
  }
  const want = new Set(wanted.map((table) => table.oid));
  const surplus = members.filter((member) => !want.has(member.oid));
  for (const { schema, table } of surplus)
    warn(
      { table: `${schema}.${table}` },
      'table is not asked for any more: taken out of the publication; sinks keep its rows as they are',
    );
  if (surplus.length > 0) await client.query(`ALTER PUBLICATION ${quoted} DROP TABLE ${list(surplus)}`);
  if (missing.length > 0) await client.query(`ALTER PUBLICATION ${quoted} ADD TABLE ${list(missing)}`);
}

async function adopt(
  client: pg.Client,
  row: PublicationRow,
  wanted: readonly TableInfo[],
  left: TableSelection['left'],
  options: PublicationOptions,
  streaming: boolean,
  warn: Warn,
): Promise<EnsuredPublication> {
  const published = await publishedTables(client, [row.name]);
  const names = new Set(published.map((table) => `${table.schema}.${table.table}`));
  const missing = wanted.filter(
    (table) => !names.has(`${table.schema}.${table.table}`) && !(table.kind === 'p' && !row.viaroot),
  );
  if (missing.length > 0 && !streaming) {
    const list = missing.map((table) => `${table.schema}.${table.table}`).join(', ');
    throw new WaltideError(
      'PUBLICATION',
      `publication "${row.name}" was not made by Waltide and does not carry ${list}`,
      `Add them with ALTER PUBLICATION, narrow source.tables, or name another publication and Waltide creates it.`,
    );
  }
  if (row.operations !== ALL_OPERATIONS)
    warn(
      { publication: row.name },
      'the publication does not publish all of insert, update, delete and truncate: the rest will be missing in the sinks',
    );
  // It may well carry partitions that are not in the WAL.
  const asked = published.filter((table) => isAsked(table, options) && cannotPublish(table) === null);
  const unasked = new Set(published.filter((table) => !asked.includes(table)).map(({ oid }) => oid));
  return { names: [row.name], tables: asked, left, missing, unasked };
}

/** What the publications carry, with column lists and row filters where the server has them (15+). */
export async function publishedTables(client: pg.Client, names: readonly string[]): Promise<PublishedTable[]> {
  const version = Number(
    (await client.query<{ server_version_num: string }>('SHOW server_version_num')).rows[0]!.server_version_num,
  );
  const lists =
    version >= 150000 ? 'attnames::text[] AS attnames, rowfilter' : 'NULL::text[] AS attnames, NULL::text AS rowfilter';
  const schemas =
    version >= 150000
      ? `UNION ALL SELECT 'n' || r.oid FROM pg_catalog.pg_publication_namespace r, pg_catalog.pg_class c
           WHERE r.pnpubid = p.oid AND c.oid IN (SELECT oid FROM road) AND r.pnnspid = c.relnamespace`
      : '';
  const { rows } = await client.query<{
    schema: string;
    table: string;
    attnames: string[] | null;
    rowfilter: string | null;
    all: string[] | null;
    membership: string;
  }>(
    `SELECT schemaname AS schema, tablename AS table, ${lists},
            -- Ids change when it is taken out and put back, and with a filter or list of columns; xmin when the publication is altered.
            (WITH road AS (SELECT format('%I.%I', schemaname, tablename)::regclass::oid AS oid
                           UNION SELECT relid FROM pg_catalog.pg_partition_ancestors(format('%I.%I', schemaname, tablename)::regclass))
             SELECT p.xmin::text || ':' || COALESCE((SELECT string_agg(id, ',' ORDER BY id) FROM (
               SELECT 'r' || r.oid AS id FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid IN (SELECT oid FROM road) ${schemas}) ids), '')) AS membership,
            (SELECT array_agg(attname::text ORDER BY attnum) FROM pg_catalog.pg_attribute a
             WHERE attrelid = format('%I.%I', schemaname, tablename)::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '') AS all
     FROM pg_catalog.pg_publication_tables t JOIN pg_catalog.pg_publication p USING (pubname) WHERE pubname = ANY($1) ORDER BY 1, 2`,
    [names],
  );
  const byName = new Map((await listTables(client)).map((table) => [`${table.schema}.${table.table}`, table]));
  return rows.flatMap((row) => {
    const info = byName.get(`${row.schema}.${row.table}`);
    // Before 18 generated columns are never published, though 15 to 17 may list them.
    const columns =
      version >= 180000 ? row.attnames : (row.attnames ?? row.all)?.filter((name) => row.all?.includes(name));
    const generated = columns?.some((name) => !row.all?.includes(name)) ?? false;
    return info
      ? [{ ...info, columns: columns ?? [], generated, rowFilter: row.rowfilter, membership: row.membership }]
      : [];
  });
}
