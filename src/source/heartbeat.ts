import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import { messageOf } from '../errors.ts';
import { type Lsn, parseLsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import { connectSource } from '../postgres/session.ts';
import { HEARTBEAT_PREFIX } from './assembler.ts';

/**
 * Writes a small message into the WAL at intervals. It comes back through the slot, so an idle database, or one whose
 * traffic lies in other tables, still lets the slot advance; and the time it takes is a lag that is true when idle.
 */
export class Heartbeat {
  readonly #source: SourceConfig;
  readonly #log: Log;
  /** One for all beats, also for two at once. */
  #client: Promise<pg.Client> | null = null;
  #timer: NodeJS.Timeout | null = null;
  #warned = false;
  #beating = 0;
  readonly #onBeat: (lsn: Lsn, sentAtMs: number) => void;

  /** `onBeat` is told where the message of each beat ends, and the Unix time in ms at which it was sent. */
  constructor(source: SourceConfig, log: Log, onBeat: (lsn: Lsn, sentAtMs: number) => void) {
    this.#source = source;
    this.#log = log;
    this.#onBeat = onBeat;
  }

  start(): void {
    const { heartbeatIntervalMs } = this.#source;
    if (heartbeatIntervalMs === 0) return;
    // While the server does not answer, more would only wait behind the first.
    this.#timer = setInterval(() => this.#beating === 0 && void this.beat(), heartbeatIntervalMs);
    this.#timer.unref();
    void this.beat();
  }

  /**
   * Resolves with the LSN at the end of its message: the stream passes it after all that has committed by now. Null where it
   * failed, which is said once, and tried again at the next interval. Never rejects.
   */
  async beat(): Promise<Lsn | null> {
    this.#beating++;
    try {
      this.#client ??= connectSource(this.#source, 'heartbeat');
      const client = await this.#client;
      const sentAtMs = Date.now();
      // Not transactional, so that it costs no transaction id.
      const { rows } = await client.query<{ lsn: string }>(
        'SELECT pg_catalog.pg_logical_emit_message(false, $1, $2)::text AS lsn',
        [HEARTBEAT_PREFIX, JSON.stringify({ slot: this.#source.slot, at: Date.now() })],
      );
      this.#warned = false;
      const lsn = parseLsn(rows[0]!.lsn);
      this.#onBeat(lsn, sentAtMs);
      return lsn;
    } catch (error) {
      await this.#hangUp();
      if (!this.#warned) this.#log.warn(`heartbeat failed: ${messageOf(error)}`);
      this.#warned = true;
      return null;
    } finally {
      this.#beating--;
    }
  }

  async stop(): Promise<void> {
    if (this.#timer) clearInterval(this.#timer);
    await this.#hangUp();
  }

  async #hangUp(): Promise<void> {
    const client = this.#client;
    this.#client = null;
    await client?.then((one) => one.end()).catch(() => {});
  }
}
