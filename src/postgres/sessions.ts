import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { connectSource, type Endpoint } from './session.ts';

/** Sessions of a server that many use cost memory there; more than this wait their turn. */
const OPEN_MAX = 4;
const WAITING_MAX = 200;
const IDLE_MS = 30_000;
/** Nothing that is asked here may hold a session for long. */
const STATEMENT_TIMEOUT_MS = 15_000;

interface Idle {
  readonly client: pg.Client;
  readonly timer: NodeJS.Timeout;
}

export interface SessionsOptions {
  /** How one is opened; default: as `connectSource`, with a bound on statements. */
  readonly open?: () => Promise<pg.Client>;
  readonly openMax?: number;
  readonly waitingMax?: number;
}

/** A few sessions at the source, lent out: for what is asked often, and must not connect each time. */
export class Sessions {
  readonly #openOne: () => Promise<pg.Client>;
  readonly #openMax: number;
  readonly #waitingMax: number;
  readonly #idle: Idle[] = [];
  readonly #waiting: (() => void)[] = [];
  #open = 0;
  #closed = false;

  constructor(
    endpoint: Endpoint,
    purpose: string,
    { open = () => openBounded(endpoint, purpose), openMax = OPEN_MAX, waitingMax = WAITING_MAX }: SessionsOptions = {},
  ) {
    this.#openOne = open;
    this.#openMax = openMax;
    this.#waitingMax = waitingMax;
  }

  /**
   * Lends a session to `work`, which leaves no transaction open where it resolves. Rejects as `work` does, as `connect`
   * does, and with NOT_RUNNING where too many wait.
   */
  async use<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    const client = await this.#borrow();
    let sound = false;
    try {
      const result = await work(client);
      sound = true;
      return result;
    } catch (error) {
      // What was refused by us, not by the server, leaves the session as it was.
      sound = error instanceof WaltideError && error.cause === undefined;
      throw error;
    } finally {
      this.#giveBack(client, sound);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(
      this.#idle.splice(0).map(({ client, timer }) => {
        clearTimeout(timer);
        return client.end().catch(() => {});
      }),
    );
  }

  async #borrow(): Promise<pg.Client> {
    if (this.#open >= this.#openMax && this.#idle.length === 0) {
      if (this.#waiting.length >= this.#waitingMax)
        throw new WaltideError('NOT_RUNNING', 'too many requests wait for PostgreSQL', 'Try again in a moment.');
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    for (let idle = this.#idle.pop(); idle; idle = this.#idle.pop()) {
      clearTimeout(idle.timer);
      if (!hasEnded(idle.client)) return idle.client;
      this.#open--;
    }
    this.#open++;
    try {
      return await this.#openOne();
    } catch (error) {
      this.#open--;
      this.#waiting.shift()?.();
      throw error;
    }
  }

  #giveBack(client: pg.Client, sound: boolean): void {
    if (!sound || this.#closed || hasEnded(client)) {
      this.#open--;
      client.end().catch(() => {});
    } else {
      const timer = setTimeout(() => {
        this.#idle.splice(this.#idle.indexOf(idle), 1);
        this.#open--;
        client.end().catch(() => {});
      }, IDLE_MS).unref();
      const idle: Idle = { client, timer };
      this.#idle.push(idle);
    }
    this.#waiting.shift()?.();
  }
}

async function openBounded(endpoint: Endpoint, purpose: string): Promise<pg.Client> {
  const client = await connectSource(endpoint, purpose);
  await client.query(`SET statement_timeout = ${STATEMENT_TIMEOUT_MS}`);
  return client;
}

/** A session that the server ended while it lay idle. */
function hasEnded(client: pg.Client): boolean {
  const { _ended = false, _queryable = true } = client as unknown as { _ended?: boolean; _queryable?: boolean };
  return _ended || !_queryable;
}
