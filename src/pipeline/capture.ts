import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import type { Batch } from '../event/batch.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import type { SourceIdentity } from '../event/offset.ts';
import { failpoint } from '../failpoint.ts';
import type { Log } from '../log.ts';
import { connect } from '../postgres/connection.ts';
import { type CopiedTable, markCopying, markStreaming, migrate, readSlotRecord } from '../postgres/control.ts';
import { alterFailover, checkFailoverVersion, slotGone } from '../postgres/failover.ts';
import { identify, withAncestors } from '../postgres/identity.ts';
import { DURABLE, forgetMarks, type Marks, momentsSince, readMarks } from '../postgres/positions.ts';
import { type EnsuredPublication, ensurePublication } from '../postgres/publication.ts';
import { checkServer, readServer } from '../postgres/server.ts';
import {
  checkOwner,
  checkSlot,
  dropSlot,
  readSlot,
  type SlotInfo,
  waitUntilReleased,
  walPosition,
} from '../postgres/slot.ts';
import { createSlot } from '../postgres/slot-creation.ts';
import { type CopyProgress, initialSnapshot } from '../snapshot/initial.ts';
import { Heartbeat } from '../source/heartbeat.ts';
import { WalSource } from '../source/wal-source.ts';
import type { Transport } from '../transport/transport.ts';
import { Acknowledger } from './acknowledger.ts';
import { LagClock } from './lag.ts';
import { RetainWindow } from './retain.ts';

/** How long a connection that was ended may keep a slot that is given up. */
const ABANDON_WAIT_MS = 10_000;

export interface CaptureOptions {
  readonly config: Config;
  readonly transport: Transport;
  readonly log: Log;
  readonly recopy: boolean;
  readonly onCopyProgress: (progress: CopyProgress) => void;
}

/** Everything from the slot to the transport: set-up, first copy, streaming, acknowledging. */
export class Capture {
  readonly #options: CaptureOptions;
  readonly lag = new LagClock();
  readonly #acknowledger = new Acknowledger();
  readonly retain: RetainWindow;
  /** How far slot and sinks were when the last run ended, or nearly. */
  marks: Marks = new Map();
  readonly #heartbeat: Heartbeat;
  #identity: SourceIdentity | null = null;
  #publication: EnsuredPublication | null = null;
  #slot: SlotInfo | null = null;
  /** A slot of ours without a finished copy: dropped as late as possible, so that a refused start changes nothing. */
  #staleSlot = false;
  #copied: readonly CopiedTable[] = [];
  #source: WalSource | null = null;
  #failure: unknown = null;
  events = 0;
  bytes = 0;
  /** Sinks want everything that committed from here on; 0 = from where the slot is. */
  needFrom: Lsn = 0n;
  /** Where WAL ended when this capture began; `inserted` is what "caught up" means. */
  wal: { readonly inserted: Lsn; readonly flushed: Lsn } = { inserted: 0n, flushed: 0n };

  constructor(options: CaptureOptions) {
    this.#options = options;
    const { retain } = options.config.source;
    this.retain = new RetainWindow(
      retain ? { bytes: retain.bytes, ms: retain.hours === undefined ? null : retain.hours * 3_600_000 } : null,
    );
    const { url, slot, heartbeatIntervalMs, connectTimeoutMs } = options.config.source;
    this.#heartbeat = new Heartbeat({ url, slot, intervalMs: heartbeatIntervalMs, connectTimeoutMs, log: options.log });
  }

  /** Who the source is; null before `prepare`. */
  get identity(): SourceIdentity | null {
    return this.#identity;
  }

  /** Everything before this LSN is durable downstream. The slot is acknowledged up to here, or less under `source.retain`. */
  get durableLsn(): Lsn {
    return this.#acknowledger.lsn;
  }

  get source(): WalSource | null {
    return this.#source;
  }

  /** True where the slot must be made first, and existing rows be copied. */
  get needsCopy(): boolean {
    return this.#slot === null;
  }

  get confirmed(): SlotInfo | null {
    return this.#slot;
  }

  /** Checks the server, the control schema, publication and slot. Changes nothing that a refused start would regret. */
  async prepare(signal: AbortSignal): Promise<SourceIdentity> {
    const { config, log, recopy } = this.#options;
    const client = await this.#connect();
    try {
      const server = await readServer(client);
      checkServer(server);
      checkFailoverVersion(config.source.failover, server.version);
      this.#identity = await withAncestors(await identify(client, config.source.slot), () => this.#replication());
      await migrate(client);
      this.wal = await walPosition(client);
      this.#slot = await this.#findSlot(client, recopy, signal);
      this.#publication = await ensurePublication(client, config.source, log, !this.needsCopy);
      if (this.#slot) await this.#readRetained(client, this.#slot);
      const { unwanted } = this.#publication;
      this.#copied = this.#copied.filter((table) => !unwanted.has(table.oid));
      for (const table of this.#publication.uncopied)
        log.warn(
          { table: `${table.schema}.${table.table}` },
          'table matches but came after the first copy: it is left out until `waltide run --recopy`',
        );
      return this.#identity;
    } finally {
      await client.end().catch(() => {});
    }
  }

  async #readRetained(client: pg.Client, slot: SlotInfo): Promise<void> {
    this.marks = await readMarks(client, slot.name);
    for (const { lsn, at } of await momentsSince(client, slot.confirmedFlushLsn ?? 0n))
      this.retain.note(lsn, at.getTime());
  }

  /** The slot to go on with; null when one must be made. */
  async #findSlot(client: pg.Client, recopy: boolean, signal: AbortSignal): Promise<SlotInfo | null> {
    const { config, log } = this.#options;
    const name = config.source.slot;
    const record = await readSlotRecord(client, name);
    const slot = await readSlot(client, name);
    // Even on request, a slot of another plugin or database is not ours to drop.
    if (slot) checkOwner(slot, this.#identity!.database);
    if (!slot && record?.state === 'streaming' && !recopy)
      throw slotGone(name, this.#identity!, config.source.failover);
    if (slot && !record && !recopy)
      throw new WaltideError(
        'SLOT_FOREIGN',
        `slot "${name}" exists, but Waltide has not made it, so nobody knows which rows came before it`,
        'Choose another name in source.slot, or drop that slot with `waltide slot drop` if nothing needs it.',
      );
    if (!slot) return null;
    await waitUntilReleased(client, name, config.source.slotWaitMs, log, signal);
    if (record?.state === 'streaming' && !recopy) {
      checkSlot(slot, this.#identity!.database);
      await alterFailover(slot, config.source.failover, () => this.#replication(), log);
      this.#copied = record.tables;
      return (await readSlot(client, name)) ?? null;
    }
    this.#staleSlot = true;
    log.warn(
      { slot: name },
      recopy ? 'every table is copied anew, with a new slot' : 'the first copy was not finished; it starts again',
    );
    return null;
  }

  /** Makes the slot and delivers existing rows. Resolves once all of them are durable. */
  async copy(signal: AbortSignal): Promise<void> {
    const { config, log, onCopyProgress } = this.#options;
    const { url, slot, slotCreateWaitMs, connectTimeoutMs } = config.source;
    const tables = this.#publication!.tables;
    const control = await this.#connect();
    const replication = await this.#replication();
    try {
      await markCopying(control, slot);
      await forgetMarks(control, slot);
      if (this.#staleSlot) await dropSlot(control, slot);
      failpoint('before-slot');
      const { consistentPoint, snapshotName } = await createSlot(
        replication,
        control,
        { name: slot, waitMs: slotCreateWaitMs, snapshot: 'export', failover: config.source.failover },
        log,
      );
      failpoint('after-slot');
      log.info(
        { slot, consistentPoint: formatLsn(consistentPoint), tables: tables.length },
        'slot created; copying existing rows',
      );
      const snapshot = initialSnapshot(
        {
          url,
          slot,
          connectTimeoutMs,
          tables,
          consistentPoint,
          snapshotName: snapshotName!,
          onProgress: onCopyProgress,
        },
        signal,
      );
      for await (const batch of snapshot) {
        this.#publish(batch);
        await this.#room(signal);
        this.#throwFailure();
        if (signal.aborted) return;
      }
      if (signal.aborted) return;
      this.#publish({ events: [], bytes: 0, commitEndLsn: consistentPoint });
      await this.#until(() => this.#acknowledger.outstanding === 0, signal);
      this.#throwFailure();
      if (signal.aborted) return;
      this.#copied = tables.map(({ oid, schema, table }) => ({ oid, schema, table }));
      await markStreaming(control, slot, consistentPoint, this.#copied);
      log.info({ slot }, 'every existing row is copied');
    } finally {
      await replication.end().catch(() => {});
      await control.end().catch(() => {});
    }
  }

  /** Streams until `signal` aborts. Rejects with what only a person can mend. */
  async stream(signal: AbortSignal, beatAtOnce: boolean): Promise<void> {
    const { config, log } = this.#options;
    this.#source = new WalSource({
      config: config.source,
      identity: this.#identity!,
      publications: this.#publication!.names,
      copied: this.#copied,
      from: this.#from(),
      log,
    });
    this.#heartbeat.start();
    if (beatAtOnce) void this.#heartbeat.beat();
    for await (const batch of this.#source.stream(signal)) {
      // Publishing goes on while the next batch is read: only the budget makes the source wait.
      this.#publish(batch);
      await this.#room(signal);
      this.#throwFailure();
    }
    this.#throwFailure();
  }

  /** Where WAL is retained on purpose, what every sink has need not be streamed again. */
  #from(): Lsn {
    const confirmed = this.#slot?.confirmedFlushLsn ?? 0n;
    const durable = this.marks.get(DURABLE)?.lsn ?? 0n;
    if (this.#options.config.source.retain === undefined || durable <= confirmed) return confirmed;
    return durable < this.needFrom ? durable : this.needFrom;
  }

  #publish(batch: Batch): void {
    const last = batch.events.at(-1);
    this.events += batch.events.length;
    this.bytes += batch.bytes;
    const commitTimeMs =
      last && !last.transaction.snapshot ? Number(last.transaction.commitTimeUs / 1000n) : Date.now();
    if (batch.commitEndLsn !== null) {
      this.lag.note(batch.commitEndLsn, commitTimeMs);
      this.retain.note(batch.commitEndLsn, commitTimeMs);
    }
    const durable = this.#acknowledger.track(batch.commitEndLsn);
    this.#options.transport
      .publish(batch)
      .then(() => {
        failpoint('before-acknowledge');
        const lsn = durable();
        this.#source?.acknowledge(this.retain.release(lsn, Date.now()), lsn);
      })
      .catch((error: unknown) => (this.#failure ??= error))
      .finally(() => this.#wake?.());
  }

  #throwFailure(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  #wake: (() => void) | null = null;

  /** The backpressure: waits while more is in flight than the budget allows. */
  #room(signal: AbortSignal): Promise<void> {
    const { transport, config } = this.#options;
    return this.#until(() => transport.bytesInFlight <= config.transport.inFlightBytesMax, signal);
  }

  /** Waits for a condition that only publishing changes; returns early on failure and abort. */
  async #until(condition: () => boolean, signal: AbortSignal): Promise<void> {
    while (!condition() && this.#failure === null && !signal.aborted) {
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          signal.removeEventListener('abort', wake);
          resolve();
        };
        this.#wake = wake;
        signal.addEventListener('abort', wake, { once: true });
      });
    }
  }

  /** Resolves when everything published is durable, or when `signal` aborts. */
  drain(signal: AbortSignal): Promise<void> {
    return this.#until(() => this.#acknowledger.outstanding === 0, signal);
  }

  /**
   * Hangs up and drops the slot, so that the source may forget its WAL; the next start makes a new one and fills every
   * table again. Never rejects: a slot that is still there is dropped at the next start.
   */
  async abandonSlot(): Promise<void> {
    const { config, log } = this.#options;
    const { slot } = config.source;
    try {
      await this.#source?.close();
      const client = await this.#connect();
      try {
        await markCopying(client, slot);
        await waitUntilReleased(client, slot, ABANDON_WAIT_MS, log, AbortSignal.timeout(ABANDON_WAIT_MS));
        await dropSlot(client, slot);
      } finally {
        await client.end().catch(() => {});
      }
    } catch (error) {
      log.warn({ slot }, `the slot could not be dropped at once: ${messageOf(error)}`);
    }
  }

  async close(): Promise<void> {
    await this.#heartbeat.stop();
    await this.#source?.close();
  }

  #replication(): Promise<pg.Client> {
    const { url, slot, connectTimeoutMs } = this.#options.config.source;
    return connect(url, { applicationName: `waltide ${slot}`, replication: true, timeoutMs: connectTimeoutMs });
  }

  #connect(): Promise<pg.Client> {
    const { url, slot, connectTimeoutMs } = this.#options.config.source;
    return connect(url, { applicationName: `waltide ${slot} control`, timeoutMs: connectTimeoutMs });
  }
}
