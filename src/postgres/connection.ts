import { readFileSync } from 'node:fs';
import pg from 'pg';
import { type ConnectionOptions, parse, toClientConfig } from 'pg-connection-string';
import { type SessionAttributes, sessionAttributes, urlPerHost } from '../config/hosts.ts';
import { type ErrorCode, messageOf, WaltideError } from '../errors.ts';
import { Liveness } from './liveness.ts';

/**
 * Session settings that decide how values look as text. Pinned on every connection, so that a snapshot's COPY and
 * the walsender's pgoutput print the same bytes for the same value (PostgreSQL manual, "Client Connection Defaults").
 */
export const PINNED: Readonly<Record<string, string>> = {
  DateStyle: 'ISO,YMD',
  IntervalStyle: 'postgres',
  TimeZone: 'UTC',
  extra_float_digits: '3',
  bytea_output: 'hex',
  lc_monetary: 'C',
  xmlbinary: 'base64',
  // Names of regclass and the like depend on it.
  search_path: 'pg_catalog',
  // A role's or database's own settings must not cut a long copy.
  statement_timeout: '0',
  lock_timeout: '0',
  idle_in_transaction_session_timeout: '0',
};

/** A server answers Terminate by hanging up at once. */
const END_TIMEOUT_MS = 2000;

export interface ConnectOptions {
  readonly applicationName: string;
  /** True opens a walsender session, which understands replication commands and simple queries only. */
  readonly replication?: boolean;
  /** For what the user's own triggers are part of. Whatever of ours runs there names schemas. */
  readonly ownSearchPath?: boolean;
  readonly timeoutMs: number;
  /** True for a session that is short, and itself looks whether another one is alive. */
  readonly unwatched?: boolean;
}

/**
 * Opens one session with pinned settings. `sslmode` follows libpq: absent or `prefer` tries TLS first and falls back.
 * So do several hosts and `target_session_attrs`: the first server that has what is wanted is taken.
 * Rejects with SOURCE_UNREACHABLE, SOURCE_AUTHENTICATION, SOURCE_DATABASE_MISSING, SOURCE_BUSY or SOURCE_RIGHTS.
 */
export async function connect(url: string, options: ConnectOptions): Promise<pg.Client> {
  const urls = urlPerHost(url);
  const wanted = sessionAttributes(url);
  const refused: string[] = [];
  // prefer-standby goes round twice: the second time any server will do.
  for (const attributes of wanted === 'prefer-standby' ? (['standby', 'any'] as const) : [wanted]) {
    for (const one of urls) {
      try {
        const client = await connectOne(one, options);
        const unfit = attributes === 'any' ? null : await unfitness(client, attributes);
        if (unfit === null) return client;
        await client.end().catch(() => {});
        refused.push(`${describeUrl(one)} is ${unfit}`);
      } catch (error) {
        // As in libpq: a server that refuses the login ends it, one that is down does not.
        if (urls.length === 1 || !(error instanceof WaltideError && HOST_DOWN.has(error.code))) throw error;
        refused.push(error.message);
      }
    }
  }
  throw new WaltideError(
    'SOURCE_UNREACHABLE',
    `no server of ${describeUrl(url)} will do (target_session_attrs=${wanted}): ${refused.join('; ')}`,
    'Check the hosts in source.url, and that one of them is what target_session_attrs asks for.',
  );
}

const HOST_DOWN: ReadonlySet<ErrorCode> = new Set(['SOURCE_UNREACHABLE', 'SOURCE_BUSY']);

/** Null where the server is what is wanted, otherwise what it is. */
async function unfitness(client: pg.Client, wanted: SessionAttributes): Promise<string | null> {
  const { rows } = await client
    .query<{ standby: boolean; read_only: boolean }>(
      `SELECT pg_catalog.pg_is_in_recovery() AS standby, pg_catalog.current_setting('default_transaction_read_only')::bool AS read_only`,
    )
    .catch(async (error: unknown) => {
      await client.end().catch(() => {});
      throw new WaltideError(
        'SOURCE_UNREACHABLE',
        `asking a server what it is: ${messageOf(error)}`,
        'It is tried again.',
      );
    });
  const { standby, read_only } = rows[0]!;
  switch (wanted) {
    case 'primary':
      return standby ? 'a standby' : null;
    case 'standby':
      return standby ? null : 'the primary';
    case 'read-only':
      return standby || read_only ? null : 'read-write';
    default:
      return standby ? 'a standby' : read_only ? 'read-only' : null;
  }
}

async function connectOne(url: string, options: ConnectOptions): Promise<pg.Client> {
  const parsed = parseUrl(url);
  const mode = sslMode(url);
  if (mode === 'disable') return open(parsed, false, url, options);
  if (mode === 'require' || mode === 'verify-ca' || mode === 'verify-full')
    return open(parsed, tls(url, mode), url, options);
  // libpq's `prefer` (the default) and `allow`: encrypted where the server can, plain where it cannot.
  try {
    return await open(parsed, { rejectUnauthorized: false }, url, options);
  } catch (error) {
    if (!/does not support SSL/.test(messageOf(error))) throw error;
    return open(parsed, false, url, options);
  }
}

function parseUrl(url: string): ConnectionOptions {
  try {
    // TLS is decided here, from the same parameters.
    const plain = new URL(url);
    for (const key of ['sslmode', 'sslcert', 'sslkey', 'sslrootcert', 'ssl', 'target_session_attrs'])
      plain.searchParams.delete(key);
    return parse(plain.toString());
  } catch (cause) {
    throw new WaltideError(
      'CONFIG_INVALID',
      `source.url is not a PostgreSQL URL: ${messageOf(cause)}`,
      'Write it as postgres://user:password@host:5432/database, with special characters percent-encoded.',
    );
  }
}

function sslMode(url: string): string {
  return new URL(url).searchParams.get('sslmode') ?? process.env.PGSSLMODE ?? 'prefer';
}

function tls(url: string, mode: string): Record<string, unknown> {
  const parameters = new URL(url).searchParams;
  const file = (key: string): Buffer | undefined => {
    const path = parameters.get(key);
    return path ? readFileSync(path) : undefined;
  };
  const ca = file('sslrootcert');
  const options: Record<string, unknown> = { cert: file('sslcert'), key: file('sslkey') };
  if (ca) options.ca = ca;
  // libpq verifies the certificate under `require` only when a root certificate is given.
  options.rejectUnauthorized = mode !== 'require' || ca !== undefined;
  if (mode !== 'verify-full') options.checkServerIdentity = () => undefined;
  return options;
}

async function open(
  parsed: ConnectionOptions,
  ssl: Record<string, unknown> | false,
  url: string,
  options: ConnectOptions,
): Promise<pg.Client> {
  const pinned = Object.entries(PINNED)
    .filter(([key]) => key !== 'search_path' || !options.ownSearchPath)
    .map(([key, value]) => `-c ${key}=${value}`);
  const client = new pg.Client({
    ...toClientConfig(parsed),
    ssl,
    application_name: options.applicationName,
    options: [parsed.options, ...pinned].filter(Boolean).join(' '),
    client_encoding: 'UTF8',
    connectionTimeoutMillis: options.timeoutMs,
    keepAlive: true,
    keepAliveInitialDelayMillis: 30_000,
    ...(options.replication ? { replication: 'database' } : {}),
  } as pg.ClientConfig);
  // Without a listener a lost idle connection would end the process; whoever uses the client sees it on the next call.
  client.on('error', () => {});
  boundEnd(client);
  try {
    await client.connect();
  } catch (error) {
    await client.end().catch(() => {});
    throw connectError(error, url);
  }
  if (!options.unwatched)
    Liveness.watch(client, () => open(parsed, ssl, url, { ...options, replication: false, unwatched: true }));
  return client;
}

/** The other end of a half-open connection never hangs up, and whoever waited for it would wait for ever. */
function boundEnd(client: pg.Client): void {
  const end = client.end.bind(client) as () => Promise<void>;
  const { connection } = client as unknown as { connection: { stream: { destroy(): void } } };
  client.end = (async () => {
    const timer = setTimeout(() => connection.stream.destroy(), END_TIMEOUT_MS);
    try {
      await end();
    } finally {
      clearTimeout(timer);
    }
  }) as typeof client.end;
}

/** Hosts, ports and database of a connection string, with no secrets: for messages. */
export function describeUrl(url: string): string {
  const each = urlPerHost(url).map((one) => new URL(one));
  return `${each.map(({ hostname, port }) => `${hostname}:${port || '5432'}`).join(',')}${each[0]!.pathname}`;
}

function connectError(error: unknown, url: string): WaltideError {
  const message = messageOf(error);
  const where = describeUrl(url);
  const code = sqlState(error);
  const options = { cause: error };
  if (code === '28P01' || code === '28000')
    return new WaltideError(
      'SOURCE_AUTHENTICATION',
      `PostgreSQL at ${where} refused the login: ${message}`,
      'Check user and password in source.url, and that pg_hba.conf lets this user in (a "replication" line is not needed: Waltide connects to the database itself).',
      options,
    );
  if (code === '3D000')
    return new WaltideError(
      'SOURCE_DATABASE_MISSING',
      `PostgreSQL at ${where}: ${message}`,
      'Check the database name at the end of source.url.',
      options,
    );
  if (code === '53300')
    return new WaltideError(
      'SOURCE_BUSY',
      `PostgreSQL at ${where} has no connection or walsender to spare: ${message}`,
      'Raise max_wal_senders or max_connections on the server, or end what holds them.',
      options,
    );
  if (code === '42501')
    return new WaltideError(
      'SOURCE_RIGHTS',
      `PostgreSQL at ${where}: ${message}`,
      'Run ALTER ROLE … REPLICATION for this user (on RDS: GRANT rds_replication TO …).',
      options,
    );
  if (/password|SASL|SCRAM/i.test(message) && code === undefined)
    return new WaltideError(
      'SOURCE_AUTHENTICATION',
      `PostgreSQL at ${where} wants a password that source.url does not give: ${message}`,
      'Add the password to source.url, best as ${VARIABLE}.',
      options,
    );
  return new WaltideError(
    'SOURCE_UNREACHABLE',
    `PostgreSQL at ${where} cannot be reached: ${message}`,
    'Check host, port and sslmode in source.url, and that the server accepts connections from here.',
    options,
  );
}

/** The SQLSTATE of a server error; undefined for anything else (a broken connection, say). */
export function sqlState(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined;
}

/** True for 42P01 (no such table) and 3F000 (no such schema): of schema `waltide`, nothing has been set up yet. */
export function isMissing(error: unknown): boolean {
  return ['42P01', '3F000'].includes(sqlState(error) ?? '');
}

/** Wraps what a query may throw: a lost connection is worth trying again, a refused statement is not. */
export function queryError(error: unknown, what: string): WaltideError {
  if (error instanceof WaltideError) return error;
  const state = sqlState(error);
  const options = { cause: error };
  if (state === undefined || state.startsWith('08') || state.startsWith('57P'))
    return new WaltideError(
      'SOURCE_CONNECTION_LOST',
      `${what}: ${messageOf(error)}`,
      'The connection to PostgreSQL broke; it is tried again.',
      options,
    );
  if (state === '42501')
    return new WaltideError(
      'SOURCE_RIGHTS',
      `${what}: ${messageOf(error)}`,
      'Grant the missing right; `waltide doctor` lists every one that is needed.',
      options,
    );
  return new WaltideError(
    'SOURCE_QUERY',
    `${what}: ${messageOf(error)}`,
    '`waltide doctor` checks the source and says what to change.',
    options,
  );
}
