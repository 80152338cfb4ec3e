import type { BatchConfig, Config } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import type { SourceIdentity } from '../event/offset.ts';
import type { Log } from '../log.ts';
import { connect } from '../postgres/connection.ts';
import { DURABLE } from '../postgres/positions.ts';
import { readSlot, walPosition } from '../postgres/slot.ts';
import { listSnapshots } from '../postgres/snapshots.ts';
import { ApplyLoop } from '../sink/apply-loop.ts';
import { createSink } from '../sink/registry.ts';
import type { QueryResult, Sink, SinkState } from '../sink/sink.ts';
import type { SnapshotProgress } from '../snapshot/snapshot.ts';
import type { Transport } from '../transport/transport.ts';
import { BudgetMinder } from './budget-minder.ts';
import { Capture } from './capture.ts';
import { beginsAgain, checkRole, checkSinks } from './checks.ts';
import { createTransport } from './create-transport.ts';
import { lacksByTable, NEW_SINK, requestForSinks } from './fill-sinks.ts';
import { type Applier, StatusReporter } from './reporter.ts';
import { SlotWatch } from './slot-watch.ts';
import type { PipelineState, PipelineStatus, Role } from './status.ts';

export interface PipelineOptions {
  readonly config: Config;
  readonly role: Role;
  readonly log: Log;
  /** Copies every table anew, with a new slot: what a lost slot or an incomplete sink needs. */
  readonly recopy?: boolean;
  readonly onCopyProgress?: (progress: SnapshotProgress) => void;
  /** A library user's own sinks, beside those of the configuration. */
  readonly sinks?: readonly Sink[];
}

/** Why a pipeline closes everything and opens it again, and what is different then. */
export interface BeginAgain {
  /** In words, for the log. */
  readonly reason: string;
  /** With a new slot, from which every table is filled again. */
  readonly recopy?: boolean;
  /** What to end with instead, once everything is closed. */
  readonly failure?: WaltideError;
  /** Called for each sink once it is open and before it goes on; resolves with its state as it is then. */
  readonly onOpen?: (sink: Sink, state: SinkState, identity: SourceIdentity) => Promise<SinkState>;
}

export interface StoppedTableOf {
  readonly sink: string;
  readonly table: string;
  readonly reason: string;
}

interface Opening {
  readonly sink: Sink;
  readonly type: string;
  readonly batch: BatchConfig;
  readonly consistency: 'table' | 'transaction';
}

/** How often "caught up" is asked; costs nothing, and bounds what it adds to a run's time. */
const CAUGHT_UP_POLL_MS = 20;
const BATCH_OF_OWN_SINKS = { rowsMax: 10_000, bytesMax: 8 * 1024 * 1024, lingerMs: 10 };

/** The wiring, in the order in which data flows: capture, transport, apply loops. One pipeline runs once. */
export class Pipeline {
  readonly #options: PipelineOptions;
  readonly #appliers: Applier[] = [];
  readonly #reporter: StatusReporter;
  #transport: Transport | null = null;
  #capture: Capture | null = null;
  #watch: SlotWatch | null = null;
  /** What this session was begun for. */
  #again: BeginAgain = { reason: '' };
  readonly #minder: BudgetMinder;
  #interrupt: ((again: BeginAgain) => boolean) | null = null;
  #state: PipelineState = 'starting';

  constructor(options: PipelineOptions) {
    this.#options = options;
    this.#reporter = new StatusReporter(options.config, options.role);
    this.#minder = new BudgetMinder(options.config.source, options.log, (again) => this.beginAgain(again));
  }

  /**
   * Until 'copied': set-up and first copy only. Until 'caught-up': stops once every sink has saved past the end of
   * WAL of when the run began. Null: for ever. Resolves after draining, when the goal is reached or `signal` aborts;
   * rejects with a WaltideError. What is not durable by then comes again at the next start.
   */
  async run(until: 'copied' | 'caught-up' | null, signal: AbortSignal): Promise<{ stopped: StoppedTableOf[] }> {
    this.#again = { reason: '', recopy: this.#options.recopy ?? false };
    for (;;) {
      const again = await this.#session(until, signal);
      if (again === null || signal.aborted) return { stopped: this.#stopped() };
      this.#options.log.info({ reason: again.reason }, 'beginning again');
      this.#again = again;
    }
  }

  /**
   * Closes everything and opens it again, without ending the process: sinks go on from what they have durably. Nothing
   * in flight is waited for. False where the pipeline is not running, or is about to begin again for another reason.
   */
  beginAgain(again: BeginAgain): boolean {
    return this.#interrupt?.(again) ?? false;
  }

  /** From opening everything to closing it. Resolves with why it is to be done once more, or null when it is done. */
  async #session(until: 'copied' | 'caught-up' | null, signal: AbortSignal): Promise<BeginAgain | null> {
    const reading = new AbortController();
    const applying = new AbortController();
    const failed = new AbortController();
    const outer = AbortSignal.any([signal, failed.signal]);
    outer.addEventListener('abort', () => reading.abort(), { once: true });
    let failure: unknown = null;
    let again: BeginAgain | null = null;
    const fail = (error: unknown): void => {
      failure ??= error;
      failed.abort();
    };
    this.#interrupt = (wanted) => {
      if (again || outer.aborted) return false;
      again = wanted;
      failed.abort();
      return true;
    };
    let loops: Promise<unknown> = Promise.resolve();
    try {
      const target = await this.#open(until, outer);
      this.#watch?.start();
      loops = Promise.all(this.#appliers.map(({ loop }) => loop.run(applying.signal).catch(fail)));
      if (this.#capture?.needsCopy && !outer.aborted) {
        this.#state = 'copying';
        await this.#capture.copy(outer);
      }
      if ((until !== 'copied' || this.#capture?.filled === false) && !outer.aborted) {
        this.#state = 'streaming';
        const streaming =
          this.#capture?.stream(reading.signal, until !== null).catch(fail) ?? waitForAbort(reading.signal);
        if (until !== null) await this.#caughtUp(target, outer);
        else await waitForAbort(outer);
        reading.abort();
        await streaming;
      }
    } catch (error) {
      failure ??= error;
    } finally {
      this.#interrupt = null;
      this.#state = 'stopping';
      reading.abort();
      again ??= this.#minder.remedy(failure) ?? beginsAgain(failure);
      // At once: what hangs in a sink must not keep the source's WAL.
      if ((again as BeginAgain | null)?.recopy) await this.#capture?.abandonSlot();
      await this.#drain(failure !== null || again !== null);
      applying.abort();
      await loops;
      await this.#close();
      this.#state = 'stopped';
    }
    // What failed because everything was being closed is no reason to stop.
    if (again?.failure) throw again.failure;
    if (again !== null) return again;
    if (failure !== null) throw failure;
    return null;
  }

  status(): PipelineStatus {
    return this.#reporter.report(
      this.#state,
      this.#transport,
      this.#capture,
      this.#watch?.status ?? null,
      this.#appliers,
    );
  }

  /** Read-only SQL on a sink that speaks it; the only such sink when `sink` is left out. */
  async query(sql: string, options: { sink?: string; rowsMax: number; timeoutMs: number }): Promise<QueryResult> {
    const able = this.#appliers.map(({ sink }) => sink).filter((sink) => sink.query !== undefined);
    const found =
      options.sink === undefined
        ? able.length === 1
          ? able[0]
          : undefined
        : able.find((sink) => sink.name === options.sink);
    if (!found?.query) {
      const names = able.map((sink) => sink.name).join(', ') || 'none';
      throw new WaltideError(
        'SINK_QUERY',
        options.sink === undefined
          ? 'several or no sinks can be queried'
          : `no sink "${options.sink}" that can be queried`,
        `Name one with --sink; there are: ${names}.`,
      );
    }
    return found.query(sql, options);
  }

  async #build(): Promise<Transport> {
    const { config, log, role } = this.#options;
    const { recopy = false } = this.#again;
    const transport = await createTransport(config, log);
    this.#transport = transport;
    if (role === 'apply') return transport;
    const onCopyProgress = (progress: SnapshotProgress): void => {
      this.#reporter.noteCopy(progress);
      this.#options.onCopyProgress?.(progress);
    };
    const capture = new Capture({ config, transport, log, recopy, onCopyProgress });
    this.#capture = capture;
    this.#watch = new SlotWatch({
      config: config.source,
      retain: capture.retain,
      marks: () =>
        new Map([
          [DURABLE, capture.durableLsn],
          ...this.#appliers.map(({ sink, subscription }) => [sink.name, subscription.appliedLsn()] as const),
        ]),
      log,
      onLook: (status, client) => this.#minder.mind(status, this.#state === 'copying', client),
    });
    return transport;
  }

  /** Opens everything, and refuses before anything is changed where a sink cannot go on from here. */
  async #open(until: string | null, signal: AbortSignal): Promise<Lsn> {
    const { config, log, role } = this.#options;
    checkRole(config, role, this.#options.sinks?.length ?? 0);
    this.#appliers.length = 0;
    this.#opened.length = 0;
    this.#state = 'starting';
    const transport = await this.#build();
    const capture = this.#capture;
    const identity = capture ? await capture.prepare(signal) : await transport.identity(signal);
    const sinks = role === 'capture' ? [] : await this.#openSinks(identity);
    if (capture && config.transport.type === 'in-process') checkSinks(capture, sinks, log);
    const lacking: { name: string; state: SinkState }[] = [];
    if (capture)
      await transport.openCapture(identity, capture.needsCopy ? null : (capture.confirmed?.confirmedFlushLsn ?? null));
    for (const { sink, type, batch, consistency, state } of sinks) {
      const subscription = await transport.subscribe(sink.name, state.offsets, { consistency });
      this.#appliers.push({
        sink,
        type,
        subscription,
        loop: new ApplyLoop({ sink, subscription, state, batch: this.#withinBudget(batch), log }),
      });
      // On Kafka what a sink lacks may still lie ahead of it in the log.
      if (config.transport.type === 'in-process' || subscription.startsEmpty) lacking.push({ name: sink.name, state });
      for (const table of state.stopped)
        log.warn({ sink: sink.name, table: `${table.schema}.${table.table}` }, `table is stopped: ${table.reason}`);
    }
    await this.#fill(lacking);
    if (until !== 'caught-up') return 0n;
    return capture ? capture.wal.inserted : await this.#applyTarget();
  }

  async #openSinks(identity: SourceIdentity): Promise<(Opening & { state: SinkState })[]> {
    const { config, log } = this.#options;
    const opened = [];
    const all: Opening[] = [];
    for (const options of config.sinks) all.push({ sink: await createSink(options, log), ...options });
    for (const sink of this.#options.sinks ?? [])
      all.push({ sink, type: 'own', batch: BATCH_OF_OWN_SINKS, consistency: 'table' });
    for (const one of all) {
      this.#opened.push(one.sink);
      const state = await one.sink.open(identity);
      opened.push({ ...one, state: (await this.#again.onOpen?.(one.sink, state, identity)) ?? state });
    }
    return opened;
  }

  readonly #opened: Sink[] = [];

  /** A sink that is new, or whose store was deleted, is given every table by snapshots of its own. */
  async #fill(lacking: readonly { name: string; state: SinkState }[]): Promise<void> {
    const { config } = this.#options;
    const capture = this.#capture;
    if (lacking.length === 0 || capture?.needsCopy) return;
    const { url, slot, connectTimeoutMs } = config.source;
    const client = await connect(url, { applicationName: `waltide ${slot} control`, timeoutMs: connectTimeoutMs });
    try {
      if (!capture) return await requestForSinks(client, slot, lacking);
      const active = new Set((await listSnapshots(client, slot, true)).map(({ id }) => id));
      for (const { table, sinks } of lacksByTable(lacking, capture.tables.captured.values(), active))
        capture.tables.ask(table.oid, sinks, NEW_SINK);
    } finally {
      await client.end().catch(() => {});
    }
  }

  /** A batch that the budget never lets fill would wait for the rest of its transaction for ever. */
  #withinBudget(batch: BatchConfig): BatchConfig {
    return {
      ...batch,
      bytesMax: Math.min(batch.bytesMax, Math.floor(this.#options.config.transport.inFlightBytesMax / 2)),
    };
  }

  /** The end of WAL, or what has been published where no capture runs that could publish more. */
  async #applyTarget(): Promise<Lsn> {
    const { url, slot: name, connectTimeoutMs } = this.#options.config.source;
    const client = await connect(url, { applicationName: `waltide ${name} control`, timeoutMs: connectTimeoutMs });
    try {
      const { inserted } = await walPosition(client);
      if ((await readSlot(client, name))?.active) return inserted;
    } finally {
      await client.end().catch(() => {});
    }
    let target: Lsn = 0n;
    for (const { subscription } of this.#appliers) {
      const published = subscription.publishedLsn();
      if (published > target) target = published;
    }
    this.#options.log.info(
      { target: formatLsn(target) },
      'no capture is running: catching up with what it has published',
    );
    return target;
  }

  async #caughtUp(target: Lsn, signal: AbortSignal): Promise<void> {
    this.#options.log.debug({ target: formatLsn(target) }, 'catching up');
    while (!signal.aborted) {
      const reached =
        this.#appliers.length > 0
          ? this.#appliers.every(({ subscription }) => subscription.appliedLsn() >= target)
          : (this.#capture?.durableLsn ?? 0n) >= target;
      if (reached && this.#capture?.settled !== false) {
        this.#options.log.info({ target: formatLsn(target) }, 'caught up');
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, CAUGHT_UP_POLL_MS));
    }
  }

  /** What was published is applied and acknowledged, so that little comes again; a hanging sink may take the time given, no more. */
  async #drain(failing: boolean): Promise<void> {
    if (failing) return;
    const bound = AbortSignal.timeout(this.#options.config.shutdownTimeoutMs);
    await this.#capture?.drain(bound);
  }

  async #close(): Promise<void> {
    const { log } = this.#options;
    const quietly = (what: string, work: Promise<unknown> | undefined): Promise<unknown> =>
      (work ?? Promise.resolve()).catch((error: unknown) => log.warn(`closing ${what}: ${messageOf(error)}`));
    for (const { subscription, sink } of this.#appliers)
      await quietly(`subscription of ${sink.name}`, subscription.close());
    await quietly('watch', this.#watch?.stop());
    await quietly('source', this.#capture?.close());
    await quietly('transport', this.#transport?.close());
    for (const sink of this.#opened) await quietly(`sink ${sink.name}`, sink.close());
  }

  #stopped(): StoppedTableOf[] {
    return this.#appliers.flatMap(({ sink, loop }) =>
      loop.status.stopped.map((table) => ({
        sink: sink.name,
        table: `${table.schema}.${table.table}`,
        reason: table.reason,
      })),
    );
  }
}

function waitForAbort(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
