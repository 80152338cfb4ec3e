import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import { messageOf } from '../errors.ts';
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
  #client: pg.Client | null = null;
  #timer: NodeJS.Timeout | null = null;
  #warned = false;

  constructor(source: SourceConfig, log: Log) {
    this.#source = source;
    this.#log = log;
  }

  start(): void {
    const { heartbeatIntervalMs } = this.#source;
    if (heartbeatIntervalMs === 0) return;
    this.#timer = setInterval(() => void this.beat(), heartbeatIntervalMs);
    this.#timer.unref();
  }

  /** Never rejects: a heartbeat that fails is said once, and tried again at the next interval. */
  async beat(): Promise<void> {
    try {
      this.#client ??= await connectSource(this.#source, 'heartbeat');
      // Not transactional, so that it costs no transaction id.
      await this.#client.query('SELECT pg_catalog.pg_logical_emit_message(false, $1, $2)', [
        HEARTBEAT_PREFIX,
        JSON.stringify({ slot: this.#source.slot, at: Date.now() }),
      ]);
      this.#warned = false;
    } catch (error) {
      await this.#client?.end().catch(() => {});
      this.#client = null;
      if (!this.#warned) this.#log.warn(`heartbeat failed: ${messageOf(error)}`);
      this.#warned = true;
    }
  }

  async stop(): Promise<void> {
    if (this.#timer) clearInterval(this.#timer);
    await this.#client?.end().catch(() => {});
    this.#client = null;
  }
}
