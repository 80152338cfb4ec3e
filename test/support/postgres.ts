import pg from 'pg';
import { inject } from 'vitest';
import { type EmbeddedPostgres, type Settings, startEmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { type PostgresVersion, postgresPackage } from './postgres-package.ts';

/**
 * A server of the test's own, for tests that restart, kill or configure it. Stop it in afterAll. fsync is off.
 * A test that only needs another version shares one: `createDatabase(await ensureSharedPostgres(14))`.
 */
export async function startPostgres(
  settings: Settings = {},
  { version = 18 }: { version?: PostgresVersion } = {},
): Promise<EmbeddedPostgres> {
  const older = version === 18 ? {} : { packageFolder: await postgresPackage(version) };
  return startEmbeddedPostgres({ settings: { fsync: 'off', ...settings }, ...older });
}

/** The server that the whole run shares. Files that use it are named `*.pg.test.ts` or `*.kafka.test.ts`. */
export function sharedPostgresUrl(): string {
  const url = inject('postgresUrl');
  if (url) return url;
  throw new Error(
    'The shared PostgreSQL runs only when a *.pg.test.ts or *.kafka.test.ts file does: rename this file.',
  );
}

export interface TestDatabase {
  readonly url: string;
  /** Unique in the run, and a valid slot name: slots belong to the server, not to the database. */
  readonly name: string;
  query(sql: string, values?: readonly unknown[]): Promise<Row[]>;
  /** Ends its sessions, drops its slots, then the database. */
  drop(): Promise<void>;
}

export type Row = Record<string, unknown>;

/** A walsender that decodes much looks at signals now and then only. */
const DROP_TIMEOUT_MS = 60_000;

let created = 0;

/** An empty database of the test's own. */
export async function createDatabase(serverUrl = sharedPostgresUrl()): Promise<TestDatabase> {
  const name = `t_${process.pid}_${Date.now().toString(36)}_${++created}`;
  await query(serverUrl, `create database ${name}`);
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  return {
    url: url.href,
    name,
    query: (sql, values) => query(url.href, sql, values),
    drop: () => dropDatabase(serverUrl, name),
  };
}

async function dropDatabase(serverUrl: string, name: string): Promise<void> {
  const slots = `select slot_name, active_pid from pg_replication_slots where database = '${name}'`;
  for (const deadline = Date.now() + DROP_TIMEOUT_MS; ; ) {
    try {
      await query(serverUrl, `select pg_terminate_backend(active_pid) from (${slots}) s where active_pid is not null`);
      await query(serverUrl, `select pg_drop_replication_slot(slot_name) from (${slots}) s`);
      await query(serverUrl, `drop database if exists ${name} with (force)`);
      return;
    } catch (error) {
      // A terminated walsender lets go of its slot a moment later.
      if (Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** Runs SQL in a session of its own; rows of the last statement. */
export async function query(url: string, sql: string, values?: readonly unknown[]): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {}); // The query itself tells; this is for servers that go away while we are idle.
  await client.connect();
  try {
    // pg gives an array of results where `sql` holds several statements.
    const result: unknown = await client.query(sql, values ? [...values] : undefined);
    const last = Array.isArray(result) ? result.at(-1) : result;
    return (last as pg.QueryResult<Row>).rows;
  } finally {
    await client.end();
  }
}
