import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import { connect } from './connection.ts';

/** What reaches the source, and names whoever does. */
export type Endpoint = Pick<SourceConfig, 'url' | 'slot' | 'connectTimeoutMs'>;

/** The same source by its primary, where `source.primaryUrl` names one: a standby takes no writes. */
export function primaryOf<S extends Endpoint & Pick<SourceConfig, 'primaryUrl'>>(source: S): S {
  return { ...source, url: source.primaryUrl || source.url };
}

/**
 * Opens a session at the source. `purpose` ends its name in pg_stat_activity, which is the slot's alone where it is
 * empty. Rejects as `connect` does.
 */
export function connectSource(
  { url, slot, connectTimeoutMs }: Endpoint,
  purpose: string,
  options: { readonly replication?: boolean } = {},
): Promise<pg.Client> {
  return connect(url, {
    applicationName: `waltide ${slot} ${purpose}`.trim(),
    timeoutMs: connectTimeoutMs,
    ...options,
  });
}

/** Does `work` in a session of its own, which is closed whatever becomes of it. */
export async function withSession<T>(
  source: Endpoint,
  purpose: string,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = await connectSource(source, purpose);
  try {
    return await work(client);
  } finally {
    await client.end().catch(() => {});
  }
}
