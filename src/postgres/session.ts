import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import { connect } from './connection.ts';

/** What reaches the source, and names whoever does. */
export type Endpoint = Pick<SourceConfig, 'url' | 'slot' | 'connectTimeoutMs'> &
  Partial<Pick<SourceConfig, 'primaryUrl'>>;

/**
 * The source by the server that has the slot, and streams. It is the primary as well, unless `source.primaryUrl` is set:
 * then it may be a standby, and everything else (whatever writes, and must know which transactions are in progress)
 * goes to the primary.
 */
export function slotSide<S extends Endpoint>(source: S): S {
  return { ...source, primaryUrl: undefined };
}

/**
 * Opens a session at the source: on its primary, unless it is `slotSide`. `purpose` ends its name in pg_stat_activity, which is the slot's alone where it is
 * empty. Rejects as `connect` does.
 */
export function connectSource(
  { url, primaryUrl, slot, connectTimeoutMs }: Endpoint,
  purpose: string,
  options: { readonly replication?: boolean; readonly ownSearchPath?: boolean } = {},
): Promise<pg.Client> {
  return connect(primaryUrl ?? url, {
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
