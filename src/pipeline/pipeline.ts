import type { BatchConfig, Config } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import type { SourceIdentity } from '../event/offset.ts';
import type { Log } from '../log.ts';
import { connect } from '../postgres/connection.ts';
import { DURABLE } from '../postgres/positions.ts';
import { checkOffset, readSlot, walPosition } from '../postgres/slot.ts';
import { ApplyLoop } from '../sink/apply-loop.ts';
import { createSink } from '../sink/registry.ts';
import type { QueryResult, Sink, SinkState } from '../sink/sink.ts';
import type { CopyProgress } from '../snapshot/initial.ts';
import type { Transport } from '../transport/transport.ts';
import { Capture } from './capture.ts';
import { createTransport } from './create-transport.ts';
import { type Applier, StatusReporter } from './reporter.ts';
import { SlotWatch } from './slot-watch.ts';
import type { PipelineState, PipelineStatus, Role } from './status.ts';

export interface PipelineOptions {
  readonly config: Config;
  readonly role: Role;
  readonly log: Log;
  /** Copies every table anew, with a new slot: what a lost slot or an incomplete sink needs. */
  readonly recopy?: boolean;
  readonly onCopyProgress?: (progress: CopyProgress) => void;
  /** A library user's own sinks, beside those of the configuration. */
  readonly sinks?: readonly Sink[];
}

export interface StoppedTableOf {
  readonly sink: string;
  readonly table: string;
  readonly reason: string;
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
  #state: PipelineState = 'starting';

  constructor(options: PipelineOptions) {
    this.#options = options;
    this.#reporter = new StatusReporter(options.config, options.role);
  }

  /**
   * Until 'copied': set-up and first copy only. Until 'caught-up': stops once every sink has saved past the end of
   * WAL of when the run began. Null: for ever. Resolves after draining, when the goal is reached or `signal` aborts;
   * rejects with a WaltideError. What is not durable by then comes again at the next start.
   */
  async run(until: 'copied' | 'caught-up' | null, signal: AbortSignal): Promise<{ stopped: StoppedTableOf[] }> {
    const reading = new AbortController();
    const applying = new AbortController();
    const failed = new AbortController();
    const outer = AbortSignal.any([signal, failed.signal]);
    outer.addEventListener('abort', () => reading.abort(), { once: true });
    let failure: unknown = null;
    const fail = (error: unknown): void => {
      failure ??= error;
      failed.abort();
    };
    let loops: Promise<unknown> = Promise.resolve();
    try {
      const target = await this.#open(until, outer);
      loops = Promise.all(this.#appliers.map(({ loop }) => loop.run(applying.signal).catch(fail)));
      if (this.#capture?.needsCopy && !outer.aborted) {
        this.#state = 'copying';
        await this.#capture.copy(outer);
      }
      if (until !== 'copied' && !outer.aborted) {
        this.#state = 'streaming';
        this.#watch?.start();
        const streaming =
          this.#capture?.stream(reading.signal, until === 'caught-up').catch(fail) ?? waitForAbort(reading.signal);
        if (until === 'caught-up') await this.#caughtUp(target, outer);
        else await waitForAbort(outer);
        reading.abort();
        await streaming;
      }
    } catch (error) {
      failure ??= error;
    } finally {
      this.#state = 'stopping';
      reading.abort();
      await this.#drain(failure !== null);
      applying.abort();
      await loops;
      await this.#close();
      this.#state = 'stopped';
    }
    if (failure !== null) throw failure;
    return { stopped: this.#stopped() };
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

  /** In-process, both ends are one process, and without a sink every change would be acknowledged and thrown away. */
  #checkRole(): void {
    const { config, role, sinks = [] } = this.#options;
    const none = config.sinks.length + sinks.length === 0;
    if (config.transport.type === 'in-process' && role !== 'all')
      throw new WaltideError(
        'CONFIG_INVALID',
        `role ${role} needs a transport between processes, and this one is in-process`,
        'Run without --role, or set transport: { type: kafka, … }.',
      );
    if (none && (config.transport.type === 'in-process' || role === 'apply'))
      throw new WaltideError(
        'CONFIG_INVALID',
        'there are no sinks, so changes would go nowhere',
        'Add one: sinks: [{ name: analytics, type: duckdb, path: ./analytics.duckdb }].',
      );
  }

  async #build(): Promise<Transport> {
    const { config, log, role, recopy = false } = this.#options;
    const transport = await createTransport(config, log);
    this.#transport = transport;
    if (role === 'apply') return transport;
    const onCopyProgress = (progress: CopyProgress): void => {
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
      onLevel: async () => {},
    });
    return transport;
  }

  /** Opens everything, and refuses before anything is changed where a sink cannot go on from here. */
  async #open(until: string | null, signal: AbortSignal): Promise<Lsn> {
    const { config, log, role } = this.#options;
    this.#checkRole();
    const transport = await this.#build();
    const capture = this.#capture;
    const identity = capture ? await capture.prepare(signal) : await transport.identity(signal);
    const sinks = role === 'capture' ? [] : await this.#openSinks(identity);
    if (capture && config.transport.type === 'in-process') this.#checkSinks(capture, sinks);
    if (capture)
      await transport.openCapture(identity, capture.needsCopy ? null : (capture.confirmed?.confirmedFlushLsn ?? null));
    for (const { sink, type, batch, state } of sinks) {
      const subscription = await transport.subscribe(sink.name, state.offsets);
      this.#appliers.push({
        sink,
        type,
        subscription,
        loop: new ApplyLoop({ sink, subscription, stopped: state.stopped, batch: this.#withinBudget(batch), log }),
      });
      for (const table of state.stopped)
        log.warn({ sink: sink.name, table: `${table.schema}.${table.table}` }, `table is stopped: ${table.reason}`);
    }
    if (until !== 'caught-up') return 0n;
    return capture ? capture.wal.inserted : await this.#applyTarget();
  }

  async #openSinks(
    identity: SourceIdentity,
  ): Promise<{ sink: Sink; type: string; batch: BatchConfig; state: SinkState }[]> {
    const { config, log } = this.#options;
    const opened = [];
    const all: { sink: Sink; type: string; batch: BatchConfig }[] = [];
    for (const options of config.sinks)
      all.push({ sink: await createSink(options, log), type: options.type, batch: options.batch });
    for (const sink of this.#options.sinks ?? []) all.push({ sink, type: 'own', batch: BATCH_OF_OWN_SINKS });
    for (const one of all) {
      this.#opened.push(one.sink);
      opened.push({ ...one, state: await one.sink.open(identity) });
    }
    return opened;
  }

  readonly #opened: Sink[] = [];

  /** In-process the slot is the only log there is, so each sink must stand within what it still holds. */
  #checkSinks(capture: Capture, sinks: { sink: Sink; state: SinkState }[]): void {
    const slot = capture.confirmed;
    if (!slot) return;
    const { flushed } = capture.wal;
    const wanted = sinks.flatMap(({ state }) => state.offsets.map(({ position }) => position.commitLsn));
    for (const lsn of wanted) if (capture.needFrom === 0n || lsn < capture.needFrom) capture.needFrom = lsn;
    for (const { sink, state } of sinks) {
      const offset = state.offsets[0];
      if (!offset)
        throw new WaltideError(
          'SINK_INCOMPLETE',
          `sink "${sink.name}" is empty, but slot "${slot.name}" has already delivered rows that it would never see`,
          'A sink that is new, or whose file was deleted, needs every row: copy anew with `waltide run --recopy` (all sinks are filled again).',
        );
      checkOffset(sink.name, offset.position.commitLsn, slot, flushed, capture.marks.get(sink.name));
      const mark = capture.marks.get(sink.name);
      if (mark && offset.position.commitLsn < mark.lsn)
        this.#options.log.warn(
          {
            sink: sink.name,
            at: formatLsn(offset.position.commitLsn),
            was: formatLsn(mark.lsn),
            when: mark.at.toISOString(),
          },
          'the sink stands before where it was: restored from an older backup? The slot still holds what it lacks; it goes on from there',
        );
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
      if (reached) {
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
