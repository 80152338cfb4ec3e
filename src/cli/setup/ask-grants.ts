import type pg from 'pg';
import { urlPerHost } from '../../config/hosts.ts';
import type { Config } from '../../config/schema.ts';
import { messageOf } from '../../errors.ts';
import { listTables } from '../../postgres/catalog.ts';
import { selectTables } from '../../postgres/publication.ts';
import { connectSource } from '../../postgres/session.ts';
import type { CliContext } from '../context.ts';
import { grantsSql, type Platform, platformOf } from './grants.ts';

/** What Waltide's own role is called where the configuration does not say: that of source.url is an administrator's. */
const ROLE = 'waltide';

interface Asked {
  readonly platform?: Platform;
  readonly role?: string;
}

/** The server is asked for its tables where the login works already; otherwise the patterns must do. */
export async function grants(context: CliContext, config: Config, asked: Asked): Promise<string> {
  const { source } = config;
  const writes = config.writes.enabled;
  const url = new URL(urlPerHost(source.primaryUrl ?? source.url)[0]!);
  const user = decodeURIComponent(url.username);
  const database = decodeURIComponent(url.pathname.slice(1)) || user;
  const common = { source, writes, database };
  let client: pg.Client;
  try {
    client = await connectSource(source, 'setup');
  } catch (error) {
    context.note(`the server cannot be asked which tables there are: ${messageOf(error)}`);
    const platform = asked.platform ?? platformOf(url.hostname, []);
    // The usual name of the first superuser, whom nobody means.
    const role = asked.role ?? (user === 'postgres' || user === '' ? ROLE : user);
    return grantsSql({ ...common, role, platform, tables: [], keyless: [] });
  }
  try {
    const { tables, keyless } = selectTables(await listTables(client), source, true);
    const { rows } = await client.query<{ role: string; self: boolean; powerful: boolean }>(
      `SELECT rolname AS role, rolname = current_user AS self, rolsuper OR rolname = 'postgres' AS powerful FROM pg_catalog.pg_roles`,
    );
    const self = rows.find((row) => row.self);
    if (asked.role === undefined && self?.powerful)
      context.note(`${self.role} is an administrator's role, so this is for role "${ROLE}"; --role names another`);
    return grantsSql({
      ...common,
      role: asked.role ?? (self?.powerful ? ROLE : (self?.role ?? user)),
      platform:
        asked.platform ??
        platformOf(
          url.hostname,
          rows.map((row) => row.role),
        ),
      tables,
      keyless: keyless.map(({ schema, table }) => `${schema}.${table}`),
    });
  } finally {
    await client.end().catch(() => {});
  }
}
