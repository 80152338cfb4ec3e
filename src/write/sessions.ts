import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { queryError } from '../postgres/connection.ts';
import { connectSource } from '../postgres/session.ts';
import { Sessions } from '../postgres/sessions.ts';

/** A session for writes, with the search_path that its role has of its own. */
export interface WriteSession {
  readonly client: pg.Client;
  readonly ownSearchPath: string;
}

/** A session that was lent. */
export interface LentSession extends WriteSession {
  /** Done once the work has its result, which does not wait for it: the session is nobody else's until then. Must not reject. */
  after(rest: () => Promise<void>): void;
}

/** A few sessions for writes. */
export class WriteSessions {
  readonly #sessions: Sessions;
  readonly #ownSearchPaths = new WeakMap<pg.Client, string>();

  constructor(config: Config) {
    const open = async (): Promise<pg.Client> => {
      const { client, ownSearchPath } = await connectWriter(config);
      this.#ownSearchPaths.set(client, ownSearchPath);
      return client;
    };
    const { connectionsMax: openMax, waitingMax } = config.writes;
    this.#sessions = new Sessions(config.source, 'write', { open, openMax, waitingMax });
  }

  /** Does `work` in a session that nobody else uses meanwhile; where it fails, the transaction is rolled back. */
  run<T>(work: (session: LentSession) => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const lent = this.#sessions.use(async (client) => {
        const ownSearchPath = this.#ownSearchPaths.get(client)!;
        let rest = async (): Promise<void> => {};
        try {
          resolve(await work({ client, ownSearchPath, after: (later) => (rest = later) }));
        } catch (error) {
          // A session that answers is as good as new.
          await client.query('ROLLBACK').catch(() => {
            throw error;
          });
          reject(error);
        }
        await rest();
      });
      lent.catch(reject);
    });
  }

  /** Those in use end when they are given back. */
  close(): Promise<void> {
    return this.#sessions.close();
  }
}

/** Commits are durable, whatever the role's default: what is answered as committed must be. */
export async function connectWriter({ source, writes }: Config): Promise<WriteSession> {
  const client = await connectSource(source, 'write', { ownSearchPath: true });
  try {
    const { rows } = await client.query<{ own: string }>(
      `SELECT pg_catalog.current_setting('search_path') AS own, pg_catalog.set_config('statement_timeout', $1, false),
              CASE WHEN pg_catalog.current_setting('synchronous_commit') = 'off' THEN pg_catalog.set_config('synchronous_commit', 'on', false) END`,
      [String(writes.statementTimeoutMs)],
    );
    // Nobody's function or operator stands in for the server's, but while the write itself is made.
    await client.query(`SELECT pg_catalog.set_config('search_path', 'pg_catalog', false)`);
    return { client, ownSearchPath: rows[0]!.own };
  } catch (error) {
    await client.end().catch(() => {});
    throw queryError(error, 'opening a session for writes');
  }
}
