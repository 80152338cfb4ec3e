import { messageOf } from '../../errors.ts';
import { listTables, type TableInfo } from '../../postgres/catalog.ts';
import { ddlCaptureState } from '../../postgres/ddl-capture.ts';
import { publishedTables, selectTables, type TableSelection } from '../../postgres/publication.ts';
import { checkTopicNames } from '../../transport/kafka/topic.ts';
import { type Check, type DatabaseSubject, type Finding, fail, few, ok, skip, warn } from './check.ts';

/** The comment that Waltide leaves on its publications. */
const OURS = 'managed by waltide';

const nameOf = (table: { schema: string; table: string }): string => `${table.schema}.${table.table}`;

export const TABLE_CHECKS: readonly Check<DatabaseSubject>[] = [
  { name: 'source.tables', run: patterns },
  { name: 'tables left out', run: leftOut },
  { name: 'topics', run: topics },
  { name: 'tables without a key', run: keyless },
  { name: 'right to read', run: readable },
  { name: 'row-level security', run: rowSecurity },
  { name: 'generated columns', run: generatedColumns },
  { name: 'right to schema waltide', run: controlSchema },
  { name: 'publication', run: publication },
  { name: 'schema changes', run: schemaChanges },
];

async function selected({ client, config }: DatabaseSubject): Promise<TableSelection> {
  return selectTables(await listTables(client), config.source, true);
}

async function wanted(subject: DatabaseSubject): Promise<readonly TableInfo[]> {
  const { tables, keyless } = await selected(subject);
  return [...tables, ...keyless];
}

async function patterns({ client, config }: DatabaseSubject): Promise<Finding> {
  try {
    const { tables, keyless } = selectTables(await listTables(client), config.source, false);
    const names = [...tables, ...keyless].map(nameOf);
    return ok(`${names.length} ${names.length === 1 ? 'table' : 'tables'}: ${few(names)}`);
  } catch (error) {
    return fail(
      messageOf(error).replace(/^source\.tables: /, ''),
      'Patterns are schema.table with * and ?, such as "public.*"; correct source.tables or source.exclude.',
    );
  }
}

async function leftOut(subject: DatabaseSubject): Promise<Finding | Finding[]> {
  const left = (await selected(subject)).left.filter((table) => !table.why.includes('no primary key'));
  if (left.length === 0) return ok('none');
  return left.map(({ name, why }) =>
    warn(
      `${name}: ${why.split('; ')[0]}`,
      `${capital(why.split('; ').slice(1).join('; ') || 'nothing can be done about it')}; or name it in source.exclude.`,
    ),
  );
}

/** Names of topics, which are made from those of tables. */
async function topics(subject: DatabaseSubject): Promise<Finding> {
  const { transport } = subject.config;
  if (transport.type !== 'kafka') return skip('the transport has none');
  const tables = await wanted(subject);
  checkTopicNames(transport.topicPrefix, tables);
  return ok(`${tables.length} under ${transport.topicPrefix}.`);
}

async function keyless(subject: DatabaseSubject): Promise<Finding> {
  const { left, keyless: inserts } = await selected(subject);
  const names = left.filter((table) => table.why.includes('no primary key')).map((table) => table.name);
  if (names.length > 0)
    return warn(
      `left out: ${few(names)}`,
      'ALTER TABLE … ADD PRIMARY KEY, or … REPLICA IDENTITY FULL (full old rows in the WAL), or set source.keylessTables: insert-only.',
    );
  return inserts.length > 0
    ? warn(
        `taken for inserts only: ${few(inserts.map(nameOf))}`,
        'Updates and deletes of them never reach a sink; add a key if they happen.',
      )
    : ok('none');
}

async function readable(subject: DatabaseSubject): Promise<Finding> {
  const tables = await wanted(subject);
  if (tables.length === 0) return skip('there are no tables');
  const { rows } = await subject.client.query<{ schema: string }>(
    `SELECT nspname AS schema FROM pg_catalog.pg_namespace WHERE nspname = ANY($1) AND NOT pg_catalog.has_schema_privilege(oid, 'USAGE')`,
    [[...new Set(tables.map((table) => table.schema))]],
  );
  if (rows.length > 0)
    return fail(
      `no USAGE on schema ${few(rows.map((row) => row.schema))}`,
      rows.map((row) => `GRANT USAGE ON SCHEMA ${subject.client.escapeIdentifier(row.schema)} TO <role>;`).join(' '),
    );
  const closed = tables.filter((table) => !table.canSelect).map(nameOf);
  return closed.length > 0
    ? fail(
        `no SELECT on ${few(closed)}`,
        `GRANT SELECT ON ${few(closed)} TO <role>; without it existing rows cannot be copied.`,
      )
    : ok('SELECT on every table');
}

async function rowSecurity(subject: DatabaseSubject): Promise<Finding> {
  const hidden = (await wanted(subject)).filter((table) => table.rowSecurity).map(nameOf);
  if (hidden.length === 0) return ok('hides no rows from this role');
  return fail(
    `policies would hide rows of ${few(hidden)}`,
    'ALTER ROLE <role> BYPASSRLS, or leave these tables out by source.exclude.',
  );
}

/** pgoutput never sends virtual ones; stored ones from 18 on, where the publication says so. */
async function generatedColumns(subject: DatabaseSubject): Promise<Finding | Finding[]> {
  const tables = await wanted(subject);
  const { rows } = await subject.client.query<{ name: string; kind: 's' | 'v' }>(
    `SELECT format('%s.%s.%s', nspname, relname, attname) AS name, attgenerated AS kind FROM pg_catalog.pg_attribute a
     JOIN pg_catalog.pg_class c ON c.oid = attrelid JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
     WHERE attrelid = ANY($1::oid[]) AND attgenerated <> '' AND NOT attisdropped ORDER BY 1`,
    [tables.map((table) => table.oid)],
  );
  if (rows.length === 0) return ok('none');
  const names = (kind: 's' | 'v'): string[] => rows.filter((row) => row.kind === kind).map((row) => row.name);
  const findings: Finding[] = [];
  if (names('v').length > 0)
    findings.push(
      warn(
        `virtual ones are never replicated: ${few(names('v'))}`,
        'Make them STORED (and publish them, PostgreSQL 18), or compute them again in the sink.',
      ),
    );
  if (names('s').length > 0) findings.push(await storedColumns(subject, names('s')));
  return findings;
}

async function storedColumns({ client, config }: DatabaseSubject, names: string[]): Promise<Finding> {
  const { rows } = await client.query<{ generated: string | null }>(
    `SELECT pg_catalog.to_jsonb(p) ->> 'pubgencols' AS generated FROM pg_catalog.pg_publication p WHERE pubname = $1`,
    [config.source.publication],
  );
  if (rows[0]?.generated === 's') return ok(`stored ones are published: ${few(names)}`);
  return warn(
    `stored ones are not published: ${few(names)}`,
    'PostgreSQL 18: ALTER PUBLICATION … SET (publish_generated_columns = stored), then `waltide run --recopy`. Before 18 they are never replicated.',
  );
}

async function controlSchema({ client }: DatabaseSubject): Promise<Finding> {
  const { rows } = await client.query<{ exists: boolean; usable: boolean; create: boolean }>(
    `SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'waltide') AS exists,
            COALESCE((SELECT bool_and(pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE'))
                      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE nspname = 'waltide' AND relkind = 'r'), true)
              AND COALESCE((SELECT pg_catalog.has_schema_privilege(oid, 'USAGE, CREATE') FROM pg_catalog.pg_namespace WHERE nspname = 'waltide'), true) AS usable,
            pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS create`,
  );
  const { exists, usable, create } = rows[0]!;
  if (exists)
    return usable
      ? ok('schema "waltide" is there')
      : fail(
          'schema "waltide" is there, but this role may not use it',
          'GRANT USAGE, CREATE ON SCHEMA waltide TO <role>; GRANT ALL ON ALL TABLES IN SCHEMA waltide TO <role>.',
        );
  return create
    ? ok('schema "waltide" can be created')
    : fail(
        'schema "waltide" cannot be created',
        'GRANT CREATE ON DATABASE <database> TO <role>; or run `waltide setup` once as the owner.',
      );
}

async function publication(subject: DatabaseSubject): Promise<Finding | Finding[]> {
  const { client, config } = subject;
  const name = config.source.publication;
  const { rows } = await client.query<{
    comment: string | null;
    owned: boolean;
    operations: boolean;
    viaroot: boolean;
  }>(
    `SELECT pg_catalog.obj_description(oid, 'pg_publication') AS comment, pg_catalog.pg_has_role(pubowner, 'USAGE') AS owned,
            pubinsert AND pubupdate AND pubdelete AND pubtruncate AS operations, pubviaroot AS viaroot FROM pg_catalog.pg_publication WHERE pubname = $1`,
    [name],
  );
  const row = rows[0];
  const tables = await wanted(subject);
  if (!row) return creatable(subject, tables);
  const carried = new Set((await publishedTables(client, [name, `${name}_inserts`])).map(nameOf));
  const missing = tables.filter((table) => !carried.has(nameOf(table)));
  if (row.comment !== OURS) return foreign(name, row, missing);
  if (missing.length === 0) return ok(`"${name}" carries every table`);
  if (!row.owned)
    return fail(
      `"${name}" belongs to another role, so ${few(missing.map(nameOf))} cannot be added`,
      `ALTER PUBLICATION ${client.escapeIdentifier(name)} OWNER TO <role>.`,
    );
  return ownership(subject, missing, `"${name}" will be given ${few(missing.map(nameOf))}`);
}

function foreign(name: string, row: { operations: boolean; viaroot: boolean }, missing: readonly TableInfo[]): Finding {
  const needed = missing.filter((table) => !(table.kind === 'p' && !row.viaroot)).map(nameOf);
  if (needed.length > 0)
    return fail(
      `"${name}" was not made by Waltide and does not carry ${few(needed)}`,
      'Add them with ALTER PUBLICATION, narrow source.tables, or name another publication and Waltide creates it.',
    );
  if (!row.operations)
    return warn(
      `"${name}" was not made by Waltide and does not publish all of insert, update, delete and truncate`,
      `ALTER PUBLICATION … SET (publish = 'insert, update, delete, truncate').`,
    );
  return ok(`"${name}" was not made by Waltide, and carries every table`);
}

async function creatable(subject: DatabaseSubject, tables: readonly TableInfo[]): Promise<Finding> {
  const { rows } = await subject.client.query<{ create: boolean }>(
    `SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS create`,
  );
  const name = subject.config.source.publication;
  if (!rows[0]!.create)
    return fail(
      `"${name}" does not exist and cannot be created`,
      'GRANT CREATE ON DATABASE <database> TO <role>, or let the owner of the tables create the publication.',
    );
  return ownership(subject, tables, `"${name}" can be created`);
}

/** Only the owner of a table may put it into a publication. */
async function ownership({ client }: DatabaseSubject, tables: readonly TableInfo[], detail: string): Promise<Finding> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT format('%s.%s', nspname, relname) AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = ANY($1::oid[]) AND NOT pg_catalog.pg_has_role(relowner, 'USAGE') ORDER BY 1`,
    [tables.map((table) => table.oid)],
  );
  if (rows.length === 0) return ok(detail);
  return fail(
    `this role does not own ${few(rows.map((row) => row.name))}, so it cannot publish them`,
    'GRANT <owner of the tables> TO <role>, or let the owner create the publication and name it in source.publication.',
  );
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

const BLIND =
  'without it a renamed column or one dropped and added again looks like another column, and a default for existing rows, a USING clause or a renamed enum label is not seen; ' +
  'tables where that may matter are copied again, except where a change leaves names and types as they were';

async function schemaChanges({ client }: DatabaseSubject): Promise<Finding> {
  switch (await ddlCaptureState(client)) {
    case 'current':
      return ok('the capture trigger is installed');
    case 'outdated':
      return warn("the capture trigger is another version's", 'Run `waltide setup --ddl` as a superuser.');
    case 'disabled':
      return warn(
        'the capture trigger does not fire in every session',
        'Run `waltide setup --ddl` as a superuser: it sets it to ENABLE ALWAYS.',
      );
    case 'absent':
      return warn(`the capture trigger is not installed: ${BLIND}`, 'Run `waltide setup --ddl` as a superuser, once.');
  }
}
