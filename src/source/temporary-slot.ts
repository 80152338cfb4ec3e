import { randomBytes } from 'node:crypto';
import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import type { Batch } from '../event/batch.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import { TypeCatalog } from '../postgres/catalog.ts';
import { ServerError } from '../postgres/copy-session.ts';
import { connectSource, slotSide } from '../postgres/session.ts';
import { createSlot } from '../postgres/slot-creation.ts';
import { Assembler } from './assembler.ts';
import { OpenTransactions } from './open-transactions.ts';
import { PgoutputError } from './pgoutput.ts';
import { PreparedHold } from './prepared-hold.ts';
import { negotiate, readProtocolServer } from './protocol.ts';
import { RelationCache } from './relations.ts';
import { ReplicationStream } from './replication-stream.ts';

/** By it `waltide slot list` knows them. */
export const TAIL_SLOT_PREFIX = 'waltide_tail_';

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
  readonly #stream: ReplicationStream;
  /** Changes committed from here on are seen. */
  readonly startLsn: Lsn;

  private constructor(catalog: pg.Client, stream: ReplicationStream, startLsn: Lsn) {
    this.#catalog = catalog;
    this.#stream = stream;
    this.startLsn = startLsn;
  }

  /**
   * Makes the slot; PostgreSQL first waits for every older transaction to end. Rejects with SLOT_BLOCKED after
   * `slotCreateWaitMs`, with SOURCE_SETTINGS where wal_level or the number of slots forbids it.
   */
  static async open(options: TemporarySlotOptions): Promise<TemporarySlot> {
    const { config, publications, log } = options;
    const name = `${TAIL_SLOT_PREFIX}${process.pid}_${randomBytes(3).toString('hex')}`;
    const catalog = await connectSource(slotSide(config), 'tail');
    let replication: pg.Client | null = null;
    let primary: pg.Client | null = null;
    try {
      if (config.primaryUrl) primary = await connectSource(config, 'tail');
      replication = await connectSource(slotSide(config), 'tail', { replication: true });
      const creation = { name, waitMs: config.slotCreateWaitMs, snapshot: 'none', temporary: true, primary } as const;
      const { consistentPoint: startLsn } = await createSlot(replication, catalog, creation, log);
      const types = new TypeCatalog(catalog);
      const unfiltered = { captured: null, history: null };
      const relations = new RelationCache({ catalog, types, slot: name, publications, log, ...unfiltered });
      const hold = new PreparedHold();
      const assembler = new Assembler(relations);
      const stream = await ReplicationStream.start(replication, {
        slot: name,
        from: startLsn,
        restart: startLsn,
        acknowledged: startLsn,
        publications,
        // Whoever only looks wants no transactions in progress, and no files of them.
        protocol: negotiate(
          { ...config.protocol, streaming: 'off', twoPhase: false },
          await readProtocolServer(catalog, name),
        ),
        open: new OpenTransactions({ memoryBytesMax: 0, folder: null, hold }),
        hold,
        assembler,
        relations,
        history: null,
      });
      return new TemporarySlot(catalog, stream, startLsn);
    } catch (error) {
      await replication?.end().catch(() => {});
      await catalog.end().catch(() => {});
      throw streamError(error);
    } finally {
      await primary?.end().catch(() => {});
    }
  }

  /** Batches in commit order until `signal` aborts. Nothing is read while the caller holds the last one. */
  async *stream(signal: AbortSignal): AsyncGenerator<Batch> {
    try {
      for await (const batch of this.#stream.batches(signal)) {
        yield batch;
        if (batch.commitEndLsn !== null) this.#stream.acknowledged = batch.commitEndLsn;
      }
      if (!signal.aborted) throw new WaltideError('SOURCE_CONNECTION_LOST', 'the server ended the stream', HELP);
    } catch (error) {
      throw streamError(error);
    }
  }

  /** Hangs up, and with that drops the slot. */
  async close(): Promise<void> {
    await this.#stream.close(1000);
    await this.#catalog.end().catch(() => {});
  }
}

const HELP = 'A temporary slot ends with its connection, and what was committed meanwhile is not shown. Start again.';

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
