import type { Socket } from 'node:net';
import type pg from 'pg';

/**
 * A session that waits for the server and hears nothing is looked at this often. TCP finds a dead peer only where nothing
 * of ours is on its way to it, and never behind a proxy, which answers for it.
 */
const LOOK_MS = 5000;
/** Looks without a byte before the server is asked… */
const SILENT_LOOKS = 2;
/** … and again after so many where it was still at work: a filter may scan for hours before the first row. */
const BUSY_LOOKS = 6;
/** As often the server must say that nothing is to come: what it sent last may be on its way. */
const STRIKES = 3;

interface Internals {
  readonly processID: number | null;
  readonly readyForQuery: boolean;
  readonly connection: { readonly stream: Socket };
}

/** Opens another session at the same server. */
type Probe = () => Promise<pg.Client>;

const watches = new WeakMap<pg.Client, Liveness>();

/**
 * Gives a session up, as if the server had hung up, where it waits for an answer that the server itself says is not to come.
 * However long the server works on one, that is no reason.
 */
export class Liveness {
  readonly #client: Internals;
  readonly #probe: Probe;
  #waiting: () => boolean;
  #bytesRead = -1;
  #looks = 0;
  #strikes = 0;
  #probing = false;

  private constructor(client: pg.Client, probe: Probe) {
    this.#client = client as unknown as Internals;
    this.#probe = probe;
    this.#waiting = () => !this.#client.readyForQuery;
  }

  /** Of a session that is open. Ends with it. */
  static watch(client: pg.Client, probe: Probe): void {
    const watch = new Liveness(client, probe);
    const timer = setInterval(() => watch.#look(), LOOK_MS).unref();
    watch.#stream.once('close', () => clearInterval(timer));
    watches.set(client, watch);
  }

  /** From here on `waiting` says whether the session waits for the server. */
  static waitsBy(client: pg.Client, waiting: () => boolean): void {
    const watch = watches.get(client);
    if (watch) watch.#waiting = waiting;
  }

  get #stream(): Socket {
    return this.#client.connection.stream;
  }

  #look(): void {
    const { bytesRead } = this.#stream;
    if (!this.#waiting() || bytesRead !== this.#bytesRead) {
      this.#bytesRead = bytesRead;
      this.#looks = 0;
      this.#strikes = 0;
      return;
    }
    if (++this.#looks < SILENT_LOOKS || this.#probing) return;
    this.#probing = true;
    void this.#ask().finally(() => {
      this.#probing = false;
    });
  }

  async #ask(): Promise<void> {
    const bytes = this.#bytesRead;
    const answer = await this.#owed().catch(() => 'unknown');
    if (answer === 'working') {
      this.#looks = SILENT_LOOKS - BUSY_LOOKS;
      this.#strikes = 0;
    }
    if (answer !== 'nothing' || !this.#waiting() || this.#stream.bytesRead !== bytes) return;
    if (++this.#strikes < STRIKES) return;
    const silentMs = LOOK_MS * this.#looks;
    this.#stream.destroy(
      new Error(`half-open: nothing came for ${silentMs / 1000} s, and the server knows of nothing to come`),
    );
  }

  /**
   * What the server says of its end: it is at work, or has done its part (or knows of nothing, or waits for us to read, or for
   * more WAL). A walsender may be at work on one long row for minutes, and answers nothing meanwhile.
   */
  async #owed(): Promise<'working' | 'nothing' | 'unknown'> {
    const other = await this.#probe();
    try {
      const { rows } = await other.query<{ state: string | null; waiting: boolean }>({
        text: `SELECT state, COALESCE(wait_event_type IN ('Client', 'Activity'), false) AS waiting FROM pg_catalog.pg_stat_activity WHERE pid = $1`,
        values: [this.#client.processID],
        query_timeout: LOOK_MS,
      } as pg.QueryConfig);
      const [row] = rows;
      if (!row || row.waiting || row.state?.startsWith('idle')) return 'nothing';
      return row.state === 'active' ? 'working' : 'unknown';
    } finally {
      await other.end().catch(() => {});
    }
  }
}
