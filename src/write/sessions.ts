import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { queryError } from '../postgres/connection.ts';
import { connectSource } from '../postgres/session.ts';

/** Each holds a request of its caller. */
const WAITING_MAX = 10_000;

/** A few sessions for writes, opened as they are needed and kept. */
export class WriteSessions {
  readonly #config: Config;
  readonly #idle: WriteSession[] = [];
  readonly #waiting: ((session: WriteSession | null) => void)[] = [];
  #open = 0;
  #closed = false;

  constructor(config: Config) {
    this.#config = config;
  }

  /** Does `work` in a session that nobody else uses meanwhile; where it fails, the transaction is rolled back. */
  async run<T>(work: (session: WriteSession) => Promise<T>): Promise<T> {
    const session = await this.#take();
    let well = false;
    try {
      const result = await work(session);
      well = true;
      return result;
    } catch (error) {
      // Nothing of it stays, and a session that answers is as good as new.
      well = await session.client.query('ROLLBACK').then(
        () => true,
        () => false,
      );
      throw error;
    } finally {
      this.#give(session, well);
    }
  }

  /** Those in use end when they are given back. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#idle.splice(0).map(({ client }) => client.end().catch(() => {})));
  }

  async #take(): Promise<WriteSession> {
    const idle = this.#idle.pop();
    if (idle) return idle;
    if (this.#open < this.#config.writes.connectionsMax) return this.#connect();
    if (this.#waiting.length >= WAITING_MAX)
      throw new WaltideError(
        'SOURCE_BUSY',
        `${WAITING_MAX} writes wait for a connection already`,
        'Write less at once, queue writes as weak, or raise writes.connectionsMax.',
      );
    const given = await new Promise<WriteSession | null>((resolve) => this.#waiting.push(resolve));
    return given ?? this.#connect();
  }

  async #connect(): Promise<WriteSession> {
    this.#open++;
    try {
      return await connectWriter(this.#config);
    } catch (error) {
      this.#leave();
      throw error;
    }
  }

  #give(session: WriteSession, well: boolean): void {
    if (!well || this.#closed) {
      void session.client.end().catch(() => {});
      this.#leave();
      return;
    }
    const next = this.#waiting.shift();
    if (next) next(session);
    else this.#idle.push(session);
  }

  /** Whoever waits may open one instead. */
  #leave(): void {
    this.#open--;
    this.#waiting.shift()?.(null);
  }
}

/** A session for writes, with the search_path that its role has of its own. */
export interface WriteSession {
  readonly client: pg.Client;
  readonly ownSearchPath: string;
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
