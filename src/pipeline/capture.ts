import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { messageOf } from '../errors.ts';
import type { Batch } from '../event/batch.ts';
import type { Lsn } from '../event/lsn.ts';
import type { SourceIdentity } from '../event/offset.ts';
import type { Relation } from '../event/relation.ts';
import type { Log } from '../log.ts';
import type { CapturedTable } from '../postgres/captured.ts';
import { describeRelation, TypeCatalog } from '../postgres/catalog.ts';
import { markCopying, markStreaming, migrate, type SlotRecord } from '../postgres/control.ts';
import { checkEndpoint } from '../postgres/endpoint.ts';
import { alterFailover, checkFailoverVersion } from '../postgres/failover.ts';
import { identify, withAncestors } from '../postgres/identity.ts';
import { DURABLE, type Marks, momentsSince, readMarks } from '../postgres/positions.ts';
import type { EnsuredPublication } from '../postgres/publication.ts';
import { checkServer, checkSettings, readServer } from '../postgres/server.ts';
import { connectSource, slotSide, withSession } from '../postgres/session.ts';
import { waitUntilFree } from '../postgres/setup-lock.ts';
import { checkSlot, dropSlot, readSlot, type SlotInfo, waitUntilReleased, walPosition } from '../postgres/slot.ts';
import { loadProtection, UNPROTECTED } from '../protect/protection.ts';
import { ControlSession } from '../snapshot/control-session.ts';
import { SnapshotManager } from '../snapshot/manager.ts';
import type { SnapshotProgress } from '../snapshot/snapshot.ts';
import { Weave } from '../snapshot/weave.ts';
import { Heartbeat } from '../source/heartbeat.ts';
import { WalSource } from '../source/wal-source.ts';
import type { Tracer } from '../tracing/tracer.ts';
import type { Transport } from '../transport/transport.ts';
import { Beats } from './beats.ts';
import { TableKeeper } from './captured-tables.ts';
import { firstCopy } from './first-copy.ts';
import { Publisher } from './publisher.ts';
import type { RecentEvents } from './recent-events.ts';
import { RetainWindow } from './retain.ts';
import { lookAtSlot } from './slot-look.ts';

/** How long a connection that was ended may keep a slot that is given up. */
const ABANDON_WAIT_MS = 10_000;

export interface CaptureOptions {
  readonly config: Config;
  readonly transport: Transport;
  readonly log: Log;
  readonly recopy: boolean;
  /** Told of what is published. */
  readonly recent: RecentEvents;
  readonly onCopyProgress: (progress: SnapshotProgress) => void;
  readonly tracer: Tracer | null;
}

/** Everything from the slot to the transport: set-up, first copy, streaming, acknowledging. */
export class Capture {
  readonly #options: CaptureOptions;
  readonly #publisher: Publisher;
  readonly retain: RetainWindow;
  /** How far slot and sinks were when the last run ended, or nearly. */
  marks: Marks = new Map();
  readonly #heartbeat: Heartbeat;
  readonly beats = new Beats();
  #identity: SourceIdentity | null = null;
  #publication: EnsuredPublication | null = null;
  #slot: SlotInfo | null = null;
  /** It is to be made anew: dropped as late as possible, so that a refused start changes nothing. */
  #staleSlot = false;
  /** A slot of that name was used before, so sinks may hold rows of its time. */
  #again = false;
  /** What was recorded of it at the start. */
  #record: SlotRecord | null = null;
  /** What was captured when the last process ended; null for a new slot. */
  #recorded: readonly CapturedTable[] | null = null;
  #beganAt: Lsn | null = null;
  readonly #control: ControlSession;
  readonly tables: TableKeeper; // What is captured, and which snapshots it still needs.
  #protection = UNPROTECTED;
  #snapshots: SnapshotManager | null = null;
  #source: WalSource | null = null;
  /** Sinks want everything that committed from here on; 0 = from where the slot is. */
  needFrom: Lsn = 0n;
  /** Past where the last snapshot ended: a sink that has applied this has all of it. 0 while none has ended. */
  snapshotsEndedBy: Lsn = 0n;
  /** Where WAL ended when this capture began; `inserted` is what "caught up" means. */
  wal: { readonly inserted: Lsn; readonly flushed: Lsn } = { inserted: 0n, flushed: 0n };

  constructor(options: CaptureOptions) {
    this.#options = options;
    const { retain } = options.config.source;
    this.retain = new RetainWindow(
      retain ? { bytes: retain.bytes, ms: retain.hours === undefined ? null : retain.hours * 3_600_000 } : null,
    );
    const { config, transport, recent, log } = options;
    this.#publisher = new Publisher({
      ...{ config, transport, retain: this.retain, recent, tracer: options.tracer },
      acknowledge: (lsn, durable) => this.#source?.acknowledge(lsn, durable),
      receivedAtMs: () => this.#source?.status.lastMessageAt || Date.now(),
    });
    this.#control = new ControlSession(() => connectSource(config.source, 'control'), log);
    this.tables = new TableKeeper({
      config,
      log,
      control: (work) => this.#control.run(work),
      passed: () => this.#passed,
      protection: () => this.#protection,
      refusal: (table, beside) => options.transport.refusal?.(table, beside) ?? null,
    });
    this.#heartbeat = new Heartbeat(config.source, log, (lsn, sentAtMs) => this.beats.sent(lsn, sentAtMs));
  }

  /** Who the source is; null before `prepare`. */
  get identity(): SourceIdentity | null {
    return this.#identity;
  }

  /** When what was committed, and how much was published. */
  get published(): Pick<Publisher, 'lag' | 'events' | 'bytes' | 'batches' | 'sizes' | 'lsn'> {
    return this.#publisher;
  }

  /** End of the server's WAL as far as is known; 0 before anything was heard. */
  get serverLsn(): Lsn {
    const told = this.#source?.status.serverLsn ?? 0n;
    return told > this.beats.lastLsn ? told : this.beats.lastLsn;
  }

  /** Everything before this LSN is durable downstream. The slot is acknowledged up to here, or less under `source.retain`. */
  get durableLsn(): Lsn {
    return this.#publisher.durableLsn;
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

  get #passed(): Lsn {
    const confirmed = this.#slot?.confirmedFlushLsn ?? 0n;
    return this.durableLsn > confirmed ? this.durableLsn : confirmed;
  }

  /** True where every captured table has had its rows delivered once. */
  get filled(): boolean {
    return this.tables.captured.values().every(({ filled, leftLsn }) => filled || leftLsn !== null);
  }

  /** Where the slot began, while its first copy is not finished; else null. */
  get beganAt(): Lsn | null {
    return this.#beganAt;
  }

  /** The first copy begins anew, with a new slot: a sink stands where an older slot left it, so it has nothing of this one. */
  startOver(): void {
    this.#options.log.warn(
      { slot: this.#slot?.name },
      'the first copy had not come far: it begins again, with a new slot',
    );
    this.#slot = null;
    this.#beganAt = null;
    this.#staleSlot = true;
    this.tables.empty();
  }

  /** True where no snapshot is pending or under way; those that someone has paused do not count. */
  get settled(): boolean {
    const snapshots = this.#snapshots;
    return this.tables.settled && snapshots?.idle === true && snapshots.lookedAt > this.tables.requestedAt;
  }

  /** Checks the server, the control schema, publication and slot. Changes nothing that a refused start would regret. */
  async prepare(signal: AbortSignal): Promise<SourceIdentity> {
    const { config, recopy } = this.#options;
    const { source } = config;
    this.#protection = await loadProtection(source);
    return withSession(source, 'control', (control) =>
      withSession(slotSide(source), 'control', async (client) => {
        const server = await readServer(client);
        checkServer(server);
        await checkSettings(client);
        await checkEndpoint(source, client, control);
        checkFailoverVersion(source.failover, server.version);
        this.#identity = await withAncestors(await identify(client, source.slot), () => this.#replication());
        await migrate(control);
        this.#slot = await this.#findSlot(client, control, recopy, signal);
        // Not before the slot was waited for: whoever used it meanwhile has taken the sinks further than the WAL reached then.
        this.wal = await walPosition(control);
        this.#publication = await this.tables.choose(control, this.#recorded);
        await this.#checkProtection(control, this.#publication);
        if (this.#slot) await this.#readRetained(control, this.#slot);
        return this.#identity;
      }),
    );
  }

  /** What cannot be protected as configured is told before anything is read of it. */
  async #checkProtection(client: pg.Client, { tables }: EnsuredPublication): Promise<void> {
    if (this.#protection.idle) return;
    const types = new TypeCatalog(client);
    for (const table of tables)
      this.#protection.check(this.tables.captured.named(await describeRelation(client, types, table, table.columns)));
  }

  /** The last thing that the source does to what leaves it, by whichever road it came. */
  #publish(batch: Batch, hold: Promise<unknown> | null, durable: (() => void) | null): void {
    this.#publisher.publish(this.#protection.batch(batch), hold, durable);
  }

  async #readRetained(client: pg.Client, slot: SlotInfo): Promise<void> {
    this.marks = await readMarks(client, slot.name);
    const now = performance.now();
    for (const { lsn, ageMs } of await momentsSince(client, slot.confirmedFlushLsn ?? 0n)) {
      this.retain.note(lsn, now - ageMs);
      this.#publisher.lag.note(lsn, Date.now() - ageMs);
    }
  }

  /** The slot to go on with; null when one must be made. */
  async #findSlot(
    client: pg.Client,
    control: pg.Client,
    recopy: boolean,
    signal: AbortSignal,
  ): Promise<SlotInfo | null> {
    const { config, log } = this.#options;
    const name = config.source.slot;
    let { slot, record } = await lookAtSlot(client, control, config.source, this.#identity!, recopy);
    if (slot) {
      await waitUntilFree(client, control, config.source, { made: !recopy, log, signal });
      // Whoever used it meanwhile may have come far.
      ({ slot, record } = await lookAtSlot(client, control, config.source, this.#identity!, recopy));
    }
    this.#record = record;
    this.#again = record !== null && record.state !== 'prepared';
    if (!slot) return null;
    const prepared = record?.state === 'prepared';
    // It died before anything could be copied from this slot, or while everything was copied anew.
    const unused = prepared || (record?.state === 'copying' && record.consistentPoint === null);
    if (!recopy && !unused) {
      checkSlot(slot, this.#identity!.database);
      await alterFailover(slot, config.source.failover, () => this.#replication(), log);
      if (record!.state === 'copying')
        log.warn({ slot: name }, 'the first copy was not finished: the rest is filled while changes are streamed');
      this.#recorded = record!.tables;
      this.#beganAt = record!.state === 'copying' ? record!.consistentPoint : null;
      return (await readSlot(client, name)) ?? null;
    }
    this.#staleSlot = true;
    log[prepared ? 'info' : 'warn']({ slot: name }, 'every table is copied anew, with a new slot');
    return null;
  }

  /** Makes the slot and delivers existing rows. Resolves once all of them are durable. */
  async copy(signal: AbortSignal): Promise<void> {
    const { config, log, onCopyProgress } = this.#options;
    await firstCopy(
      {
        config,
        log,
        tables: this.#publication!.tables,
        keeper: this.tables,
        dropSlot: this.#staleSlot,
        seen: this.#record,
        again: this.#again,
        onProgress: onCopyProgress,
        publish: async (batch, durable) => {
          this.#publish(batch, null, durable);
          await this.#publisher.room(signal);
        },
        durable: async () => {
          await this.#publisher.drained(signal);
          this.#publisher.throwFailure();
        },
      },
      signal,
    );
  }

  /** Streams until `signal` aborts, and fills what is to be filled. Rejects with what only a person can mend. */
  async stream(signal: AbortSignal, beatAtOnce: boolean): Promise<void> {
    const { config, log } = this.#options;
    const weave = new Weave();
    const snapshots = this.#snapshotManager(weave);
    await this.#control.run(async (client) => {
      await markStreaming(client, config.source.slot);
      await snapshots.load(client);
      await this.tables.begin(client);
    });
    this.#source = new WalSource({
      config: config.source,
      identity: this.#identity!,
      publications: this.#publication!.names,
      captured: this.tables.captured,
      hides: (relation, column) => this.#protection.hides(relation, column),
      from: this.#from(),
      stateDir: config.stateDir,
      log,
    });
    this.#heartbeat.start();
    if (beatAtOnce && config.source.heartbeatIntervalMs === 0) void this.#heartbeat.beat();
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    const beside = [snapshots.run(either), this.tables.run(either)];
    try {
      for await (const { batch, hold, durable } of weave.weave(this.#source.stream(signal))) {
        // Publishing goes on while the next batch is read: only the budget makes the source wait.
        this.#publish(batch, hold, durable);
        await this.#publisher.room(signal);
      }
      this.#publisher.throwFailure();
    } finally {
      stop.abort();
      await Promise.all(beside);
    }
  }

  #snapshotManager(weave: Weave): SnapshotManager {
    const { config, log, onCopyProgress: onProgress } = this.#options;
    const context = {
      config,
      publications: this.#publication!.names,
      weave,
      log,
      onProgress,
      named: (relation: Relation) => this.tables.captured.named(relation),
      connect: (what: string, replication = false) => connectSource(config.source, what, { replication }),
      control: <T>(work: (client: pg.Client) => Promise<T>) => this.#control.run(work),
    };
    this.#snapshots = new SnapshotManager(context, async ({ tableOid, kind, sinks }) => {
      // A heartbeat comes after it, and an idle stream passes it at once.
      this.snapshotsEndedBy = (await this.#heartbeat.beat()) ?? this.#source?.status.serverLsn ?? 0n;
      if (kind === 'incremental' && sinks === null) await this.tables.filled(tableOid);
    });
    return this.#snapshots;
  }

  /** Where WAL is retained on purpose, what every sink has need not be streamed again. */
  #from(): Lsn {
    const confirmed = this.#slot?.confirmedFlushLsn ?? 0n;
    const durable = this.marks.get(DURABLE)?.lsn ?? 0n;
    if (this.#options.config.source.retain === undefined || durable <= confirmed) return confirmed;
    return durable < this.needFrom ? durable : this.needFrom;
  }

  /** Resolves when everything published is durable (true), or when `signal` aborts. */
  async drain(signal: AbortSignal): Promise<boolean> {
    await this.#publisher.drained(signal);
    return this.#publisher.settled;
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
      await withSession(config.source, 'control', (control) => markCopying(control, slot));
      await withSession(slotSide(config.source), 'control', async (client) => {
        await waitUntilReleased(client, slot, ABANDON_WAIT_MS, log, AbortSignal.timeout(ABANDON_WAIT_MS));
        await dropSlot(client, slot);
      });
    } catch (error) {
      log.warn({ slot }, `the slot could not be dropped at once: ${messageOf(error)}`);
    }
  }

  async close(): Promise<void> {
    await this.#heartbeat.stop();
    await this.#source?.close();
    await this.#control.close();
  }

  #replication(): Promise<pg.Client> {
    return connectSource(slotSide(this.#options.config.source), '', { replication: true });
  }
}
