import { randomBytes } from 'node:crypto';
import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import type { Batch } from '../event/batch.ts';
import { type Lsn, parseLsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import { TypeCatalog } from '../postgres/catalog.ts';
import { connect, queryError, sqlState } from '../postgres/connection.ts';
import { COPY_DATA, CopySession, ServerError } from '../postgres/copy-session.ts';
import { Assembler } from './assembler.ts';
import { PgoutputError, type RelationMessage } from './pgoutput.ts';
import { RelationCache } from './relations.ts';

const XLOG_DATA = 0x77; // 'w' Int64 start, Int64 end of WAL, Int64 clock, then the message
const XLOG_DATA_HEADER = 25;
const KEEPALIVE = 0x6b; // 'k' Int64 end of WAL, Int64 clock, Byte1 reply wanted
const STANDBY_STATUS = 0x72; // 'r' Int64 written, flushed, applied, clock, Byte1 reply wanted
const POSTGRES_EPOCH_MS = 946_684_800_000;
const STATUS_INTERVAL_MS = 1000;
/** How often one who waits for a slot is told what for. */
const BLOCKERS_INTERVAL_MS = 2000;

export interface TemporarySlotOptions {
  readonly config: SourceConfig;
  readonly publications: readonly string[];
  readonly log: Log;
}

/**
 * Live changes through a slot that lives as long as this connection: for looking, not for replicating. It holds up
 * no WAL once it ends, and works beside the pipeline's own slot. A lost connection ends it, since what would have
 * come meanwhile is gone.
 */
export class TemporarySlot {
  readonly #catalog: pg.Client;
  readonly #session: CopySession;
  readonly #relations: RelationCache;
  readonly #assembler: Assembler;
  /** Changes committed from here on are seen. */
  readonly startLsn: Lsn;
  #done: Lsn = 0n;

  private constructor(catalog: pg.Client, session: CopySession, startLsn: Lsn, log: Log) {
    this.#catalog = catalog;
    this.#session = session;
    this.#relations = new RelationCache(catalog, new TypeCatalog(catalog), null, log);
    this.#assembler = new Assembler(this.#relations);
    this.startLsn = startLsn;
    this.#done = startLsn;
  }

  /**
   * Makes the slot; PostgreSQL first waits for every older transaction to end. Rejects with SLOT_BLOCKED after
   * `slotCreateWaitMs`, with SOURCE_SETTINGS where wal_level or the number of slots forbids it.
   */
  static async open(options: TemporarySlotOptions): Promise<TemporarySlot> {
    const { config, publications, log } = options;
    const name = `waltide_tail_${process.pid}_${randomBytes(3).toString('hex')}`;
    const application = { applicationName: `waltide ${config.slot} tail`, timeoutMs: config.connectTimeoutMs };
    const catalog = await connect(config.url, application);
    let replication: pg.Client | null = null;
    try {
      replication = await connect(config.url, { ...application, replication: true });
      const startLsn = await createTemporary(replication, catalog, name, config.slotCreateWaitMs, log);
      // An E'' string is not known here: names are quoted twice, as identifiers and as a literal.
      const names = publications
        .map((publication) => `"${publication.replaceAll('"', '""')}"`)
        .join(',')
        .replaceAll("'", "''");
      const plugin = `proto_version '1', publication_names '${names}', messages 'true'`;
      const session = await CopySession.start(replication, `START_REPLICATION SLOT "${name}" LOGICAL 0/0 (${plugin})`);
      return new TemporarySlot(catalog, session, startLsn, log);
    } catch (error) {
      await replication?.end().catch(() => {});
      await catalog.end().catch(() => {});
      throw streamError(error);
    }
  }

  /** Batches in commit order until `signal` aborts. Nothing is read while the caller holds the last one. */
  async *stream(signal: AbortSignal): AsyncGenerator<Batch> {
    const timer = setInterval(() => this.#sendStatus(), STATUS_INTERVAL_MS);
    const stop = (): void => this.#session.stopReading();
    signal.addEventListener('abort', stop, { once: true });
    try {
      while (!signal.aborted) {
        const frames = await this.#session.read();
        if (!frames || signal.aborted) break;
        for (let at = 0; at < frames.length; ) {
          const next = this.#consume(frames, at);
          at = next.at;
          if (next.message) await this.#relations.describe(next.message);
        }
        for (const batch of this.#assembler.take(frames.length)) {
          yield batch;
          if (batch.commitEndLsn !== null) this.#done = batch.commitEndLsn;
        }
      }
      if (!signal.aborted) throw new WaltideError('SOURCE_CONNECTION_LOST', 'the server ended the stream', HELP);
    } catch (error) {
      throw streamError(error);
    } finally {
      clearInterval(timer);
      signal.removeEventListener('abort', stop);
    }
  }

  /** Hangs up, and with that drops the slot. */
  async close(): Promise<void> {
    await this.#session.close(1000);
    await this.#catalog.end().catch(() => {});
  }

  /** Stops early only at a Relation message, which needs a look at the catalog. */
  #consume(frames: Buffer, from: number): { at: number; message: RelationMessage | null } {
    let at = from;
    while (at < frames.length) {
      const end = at + 1 + frames.readUInt32BE(at + 1);
      if (frames[at] !== COPY_DATA) this.#session.control(frames, at);
      else if (frames[at + 5] === XLOG_DATA) {
        const message = this.#assembler.push(frames, at + 5 + XLOG_DATA_HEADER, end, frames.readBigUInt64BE(at + 6));
        if (message) return { at: end, message };
      } else if (frames[at + 5] === KEEPALIVE) {
        this.#assembler.keepalive(frames.readBigUInt64BE(at + 6));
        if (frames[at + 22] === 1) this.#sendStatus();
      }
      at = end;
    }
    return { at, message: null };
  }

  #sendStatus(): void {
    const payload = Buffer.alloc(34);
    payload[0] = STANDBY_STATUS;
    for (const at of [1, 9, 17]) payload.writeBigUInt64BE(this.#done, at);
    payload.writeBigInt64BE(BigInt(Date.now() - POSTGRES_EPOCH_MS) * 1000n, 25);
    this.#session.send(payload);
  }
}

const HELP = 'A temporary slot ends with its connection, and what was committed meanwhile is not shown. Start again.';

async function createTemporary(
  replication: pg.Client,
  watcher: pg.Client,
  name: string,
  waitMs: number,
  log: Log,
): Promise<Lsn> {
  const deadline = Date.now() + waitMs;
  let late = false;
  const watch = setInterval(async () => {
    log.warn('waiting for older transactions to end, as every new slot must; `waltide doctor` names them');
    if (Date.now() < deadline) return;
    late = true;
    const { processID } = replication as unknown as { processID: number };
    await watcher.query('SELECT pg_catalog.pg_cancel_backend($1)', [processID]).catch(() => {});
  }, BLOCKERS_INTERVAL_MS);
  try {
    // The options of before 15, which later servers take as well.
    const command = `CREATE_REPLICATION_SLOT "${name}" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT`;
    const { rows } = await replication.query<{ consistent_point: string }>(command);
    return parseLsn(rows[0]!.consistent_point);
  } catch (error) {
    const options = { cause: error };
    const state = sqlState(error);
    if (late)
      throw new WaltideError(
        'SLOT_BLOCKED',
        `no slot within ${Math.round(waitMs / 1000)} s: older transactions are still open`,
        'End them (`waltide doctor` names them), or raise source.slotCreateWaitMs.',
        options,
      );
    if (state === '53400')
      throw new WaltideError(
        'SOURCE_SETTINGS',
        `no temporary slot can be made: ${messageOf(error)}`,
        'Drop an unused slot (`waltide slot list`), or raise max_replication_slots and restart the server.',
        options,
      );
    if (state === '55000')
      throw new WaltideError(
        'SOURCE_SETTINGS',
        `no temporary slot can be made: ${messageOf(error)}`,
        'Set wal_level = logical and restart the server.',
        options,
      );
    throw queryError(error, 'making a temporary slot');
  } finally {
    clearInterval(watch);
  }
}

function streamError(error: unknown): WaltideError {
  if (error instanceof WaltideError) return error;
  const options = { cause: error };
  if (error instanceof PgoutputError)
    return new WaltideError(
      'PROTOCOL',
      `the stream cannot be understood: ${error.message}`,
      'Report this with the PostgreSQL version.',
      options,
    );
  if (error instanceof ServerError && error.code === '42704')
    return new WaltideError(
      'PUBLICATION',
      error.message,
      'Run `waltide setup`, which creates the publication.',
      options,
    );
  if (error instanceof ServerError && !error.code.startsWith('57P'))
    return new WaltideError(
      'SOURCE_QUERY',
      error.message,
      '`waltide doctor` checks the source and says what to change.',
      options,
    );
  return new WaltideError(
    'SOURCE_CONNECTION_LOST',
    `the connection to PostgreSQL broke: ${messageOf(error)}`,
    HELP,
    options,
  );
}
