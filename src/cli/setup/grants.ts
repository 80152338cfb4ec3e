import type { Config } from '../../config/schema.ts';

/** Services that give no superuser, and so have ways of their own to allow replication. */
export const PLATFORMS = ['plain', 'rds', 'cloudsql', 'azure', 'supabase', 'neon'] as const;
export type Platform = (typeof PLATFORMS)[number];

export interface GrantsOptions {
  readonly source: Config['source'];
  /** The API may write to the tables. */
  readonly writes: boolean;
  readonly role: string;
  readonly platform: Platform;
  readonly database: string;
  /** What source.tables matches; empty where the server could not be asked. */
  readonly tables: readonly GrantedTable[];
  /** Names of tables that source.keylessTables: insert-only would take. */
  readonly keyless: readonly string[];
}

export interface GrantedTable {
  readonly schema: string;
  readonly table: string;
  /** Policies would hide rows of it. */
  readonly rowSecurity: boolean;
}

const REPLICATION: Readonly<Record<Platform, (role: string) => readonly string[]>> = {
  plain: (role) => [`ALTER ROLE ${role} REPLICATION;`],
  rds: (role) => [
    '-- Amazon RDS and Aurora: parameter group rds.logical_replication = 1, then a restart.',
    `GRANT rds_replication TO ${role};`,
  ],
  cloudsql: (role) => [
    '-- Cloud SQL: flag cloudsql.logical_decoding = on, then a restart. As a member of cloudsqlsuperuser:',
    `ALTER ROLE ${role} REPLICATION;`,
  ],
  azure: (role) => [
    '-- Azure Database: server parameter wal_level = logical, then a restart. As a member of azure_pg_admin:',
    `ALTER ROLE ${role} REPLICATION;`,
  ],
  supabase: (role) => [
    '-- Supabase: as role postgres. Connect to db.<project>.supabase.co:5432 itself, not to the pooler.',
    `ALTER ROLE ${role} REPLICATION;`,
  ],
  neon: () => [
    '-- Neon: turn on logical replication in the settings of the project, and make the role in its console (or by its',
    '-- API): such roles have REPLICATION, roles made by SQL cannot get it. Connect to the host without "-pooler".',
  ],
};

/** Least-privilege SQL for the role that Waltide logs in as, to be run once by an administrator. Can be run again. */
export function grantsSql(options: GrantsOptions): string {
  const { source, platform, database, tables } = options;
  const role = quote(options.role);
  const schemas = [...new Set(tables.length > 0 ? tables.map(({ schema }) => schema) : schemasOf(source.tables))];
  const lines = [
    `-- What Waltide needs in database ${database}, and nothing more. For an administrator who owns the tables, connected to it.`,
    '',
    '-- To log in, and to read the WAL.',
    ...(platform === 'neon' ? [] : [createRole(options.role)]),
    ...REPLICATION[platform](role),
    `GRANT CONNECT ON DATABASE ${quote(database)} TO ${role};`,
    '',
    '-- Bookkeeping of its own: which slot, which snapshots, which schema changes.',
    'CREATE SCHEMA IF NOT EXISTS waltide;',
    `GRANT USAGE, CREATE ON SCHEMA waltide TO ${role};`,
    '',
    '-- To copy the rows that are there.',
    `GRANT USAGE ON SCHEMA ${schemas.map(quote).join(', ')} TO ${role};`,
    ...onTables('SELECT', options, schemas, role),
    ...(options.writes
      ? ['', '-- For writes.enabled.', ...onTables('INSERT, UPDATE, DELETE', options, schemas, role)]
      : []),
    '',
    '-- What is published. Only the owner of a table can publish it, so the role itself does not need to.',
    ...publications(options),
  ];
  if (tables.some(({ rowSecurity }) => rowSecurity))
    lines.push('', '-- Row-level security would hide rows.', `ALTER ROLE ${role} BYPASSRLS;`);
  lines.push(
    '',
    '-- Not needed, and useful: names of transactions that hold up a new slot, for `waltide doctor`.',
    `-- GRANT pg_read_all_stats TO ${role};`,
    '-- Schema changes in full need an event trigger, which only a superuser can make: `waltide setup --ddl` as one.',
  );
  return lines.join('\n');
}

function createRole(role: string): string {
  return `DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = ${literal(role)}) THEN CREATE ROLE ${quote(role)} LOGIN PASSWORD 'choose one'; END IF; END $$;`;
}

function onTables(rights: string, { tables }: GrantsOptions, schemas: readonly string[], role: string): string[] {
  if (tables.length > 0) return [`GRANT ${rights} ON ${list(tables)} TO ${role};`];
  return schemas.map((schema) => `GRANT ${rights} ON ALL TABLES IN SCHEMA ${quote(schema)} TO ${role};`);
}

function publications({ source, role, tables, keyless }: GrantsOptions): string[] {
  const name = quote(source.publication);
  if (tables.length === 0)
    return [
      '-- (No table is known yet that source.tables matches: name them here.)',
      `-- CREATE PUBLICATION ${name} FOR TABLE … WITH (publish_via_partition_root = true);`,
    ];
  return [
    `DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = ${literal(source.publication)}) THEN CREATE PUBLICATION ${name} FOR TABLE ${list(tables)} WITH (publish_via_partition_root = true); END IF; END $$;`,
    `-- Later: ALTER PUBLICATION ${name} ADD TABLE …; GRANT SELECT ON … TO ${quote(role)};`,
    ...keyless.map(
      (table) =>
        `-- Left out, since it has no key: ${table}. Only the role that owns it can have it published for inserts alone.`,
    ),
  ];
}

/** Of patterns such as `public.*`; a schema that is itself a pattern cannot be named. Without one, `users` is most likely in public. */
function schemasOf(patterns: readonly string[]): string[] {
  const schemas = patterns.map((pattern) => (pattern.includes('.') ? pattern.split('.')[0]! : 'public'));
  const named = schemas.filter((schema) => !/[*?]/.test(schema));
  return named.length > 0 ? named : ['public'];
}

function list(tables: readonly GrantedTable[]): string {
  return tables.map(({ schema, table }) => `${quote(schema)}.${quote(table)}`).join(', ');
}

function quote(name: string): string {
  // Always in quotes, but for our own schema: any word may be a keyword.
  return `"${name.replaceAll('"', '""')}"`;
}

function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/** Which service a host belongs to, by its name, or else by the roles that only the service has. */
export function platformOf(host: string, roles: readonly string[]): Platform {
  const known: readonly [Platform, RegExp, string][] = [
    ['rds', /\.rds\.amazonaws\.com(\.cn)?$/, 'rds_superuser'],
    ['azure', /\.postgres(\.database)?\.azure\.com$/, 'azure_pg_admin'],
    ['supabase', /\.supabase\.(co|com)$/, 'supabase_admin'],
    ['neon', /\.neon\.tech$/, 'neon_superuser'],
    ['cloudsql', /\.sql\.goog$/, 'cloudsqlsuperuser'],
  ];
  return known.find(([, name, role]) => name.test(host) || roles.includes(role))?.[0] ?? 'plain';
}
