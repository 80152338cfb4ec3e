import type pg from 'pg';
import type { Log } from '../log.ts';
import { retrying } from './retry.ts';

/** One connection for what is saved in the control tables: one piece of work after another, again where it is lost. */
export class ControlSession {
  readonly #connect: () => Promise<pg.Client>;
  readonly #log: Log;
  readonly #closed = new AbortController();
  #client: pg.Client | null = null;
  #last: Promise<unknown> = Promise.resolve();

  constructor(connect: () => Promise<pg.Client>, log: Log) {
    this.#connect = connect;
    this.#log = log;
  }

  /** Work may be done twice: its answer may be what was lost. Rejects once the session is closed. */
  run<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    const mine = this.#last.then(() =>
      retrying('control tables', this.#log, this.#closed.signal, async () => {
        try {
          this.#client ??= await this.#connect();
          return await work(this.#client);
        } catch (error) {
          await this.#disconnect();
          throw error;
        }
      }),
    );
    this.#last = mine.catch(() => {});
    return mine;
  }

  async close(): Promise<void> {
    this.#closed.abort(new Error('the control session is closed'));
    await this.#last;
    await this.#disconnect();
  }

  async #disconnect(): Promise<void> {
    const client = this.#client;
    this.#client = null;
    await client?.end().catch(() => {});
  }
}
