import type { Config } from '../config/schema.ts';
import { messageOf } from '../errors.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Offset, SourceIdentity } from '../event/offset.ts';
import type { Log } from '../log.ts';
import { DURABLE } from '../postgres/positions.ts';
import type { QueryResult, Sink, SinkState } from '../sink/sink.ts';
import type { SnapshotProgress } from '../snapshot/snapshot.ts';
import type { Tracer } from '../tracing/tracer.ts';
import type { Subscription, Transport } from '../transport/transport.ts';
import type { ValidationReport, ValidationRequest } from '../validation/report.ts';
import type { ValidationWatch } from '../validation/validator.ts';
import { type Applier, openApplier, type StoppedTableOf, stoppedTables } from './applier.ts';
import { applyTarget } from './apply-target.ts';
import { type Arrival, Arrivals, type WaitOptions } from './arrivals.ts';
import { type BeginAgain, Patience } from './begin-again.ts';
import { BudgetMinder } from './budget-minder.ts';
import { Capture } from './capture.ts';
import type { WantedTables } from './captured-tables.ts';
import { caughtUp } from './caught-up.ts';
import { beginsAgain, checkRole, checkSinks } from './checks.ts';
import { createTransport } from './create-transport.ts';
import { fillSinks } from './fill-sinks.ts';
import { PipelineLetters } from './letters.ts';
import { openSinks } from './open-sinks.ts';
import { type QueryOptions, querySink } from './query.ts';
import { RecentEvents } from './recent-events.ts';
import { Refills } from './refills.ts';
import { checkReplay, type ReplayPlan, type ReplayRequest, type Rewound, rewindSink } from './replay.ts';
import { StatusReporter } from './reporter.ts';
import { SlotWatch } from './slot-watch.ts';
import type { PipelineState, PipelineStatus, Role } from './status.ts';
import { type UntilBound, UntilSubscription } from './until.ts';
import { busy, waitForAbort, within } from './wait.ts';

export interface PipelineOptions {
  readonly config: Config;
  readonly role: Role;
  readonly log: Log;
  /** Copies every table anew, with a new slot: what a lost slot or an incomplete sink needs. */
  readonly recopy?: boolean;
  readonly onCopyProgress?: (progress: SnapshotProgress) => void;
  /** A library user's own sinks, beside those of the configuration. */
  readonly sinks?: readonly Sink[];
  /** Done before anything else. */
  readonly replay?: ReplayRequest;
  readonly tracer?: Tracer | null; // Told of every batch; see openTracer.
  /** Where the sink of `replay` stops; the run then ends. */
  readonly until?: UntilBound;
}

export type RunGoal = 'copied' | 'rewound' | 'caught-up' | null;

export interface RunEnd {
  readonly stopped: readonly StoppedTableOf[];
  /** What `PipelineOptions.replay` came to; null where there was none, or it was not reached. */
  readonly replayed: ReplayPlan | null;
}

/** The wiring, in the order in which data flows: capture, transport, apply loops. One pipeline runs once. */
export class Pipeline {
  readonly #options: PipelineOptions;
  readonly #appliers: Applier[] = [];
  readonly #opened: Sink[] = [];
  readonly recent = new RecentEvents(); // What this process has captured last.
  #wanted: WantedTables | null = null;
  #refills: Refills | null = null;
  #letters: PipelineLetters | null = null;
  readonly #reporter: StatusReporter;
  readonly #arrivals: Arrivals;
  #transport: Transport | null = null;
  #capture: Capture | null = null;
  #watch: SlotWatch | null = null;
  #bound: UntilSubscription | null = null;
  #again: BeginAgain = { reason: '' }; // What this session was begun for.
  readonly #minder: BudgetMinder;
  #interrupt: ((again: BeginAgain) => boolean) | null = null;
  #state: PipelineState = 'starting';
  readonly #patience: Patience;

  constructor(options: PipelineOptions) {
    this.#options = options;
    this.#reporter = new StatusReporter(options.config, options.role);
    this.#arrivals = new Arrivals([...options.config.sinks, ...(options.sinks ?? [])].map(({ name }) => name));
    this.#patience = new Patience(options.log);
    this.#minder = new BudgetMinder(options.config.source, options.log, (again) => this.beginAgain(again));
  }

  /**
   * Until 'copied': set-up and first copy only. Until 'rewound': the replay's sink goes back, and no further. Until
   * 'caught-up': stops once every sink has saved past the end of WAL of when the run began. Null: for ever. Resolves after
   * draining, when the goal is reached or `signal` aborts; rejects with a WaltideError, where it is final and there is no
   * goal only once `signal` aborts. What is not durable by then comes again at the next start.
   */
  async run(until: RunGoal, signal: AbortSignal): Promise<RunEnd> {
    const { replay, recopy = false } = this.#options;
    let replayed: ReplayPlan | null = null;
    this.#again = replay
      ? {
          reason: 'replay',
          onOpen: async (...opened) => {
            // Once it has gone back, whatever fails is no reason to go back again.
            if (replayed) return opened[1];
            const { state, plan } = await this.#rewind(replay, ...opened);
            replayed ??= plan;
            return state;
          },
        }
      : { reason: '', recopy };
    try {
      for (;;) {
        const again = await this.#session(until, signal).catch(async (error: unknown) => {
          await this.#patience.outwait(error, signal, until === null);
          return this.#again;
        });
        if (again === null || signal.aborted) return { stopped: stoppedTables(this.#appliers), replayed };
        if (again !== this.#again) this.#options.log.info({ reason: again.reason }, 'beginning again');
        this.#again = again;
      }
    } finally {
      this.#arrivals.end();
    }
  }

  /** See Arrivals: resolves once sinks have applied what was committed before `lsn`. */
  waitFor(lsn: Lsn, options: WaitOptions): Promise<Arrival> {
    return this.#arrivals.wait(lsn, options);
  }

  /**
   * Closes everything and opens it again, without ending the process: sinks go on from what they have durably. Nothing
   * in flight is waited for. False where the pipeline is not running, or is about to begin again for another reason.
   */
  beginAgain(again: BeginAgain): boolean {
    return this.#interrupt?.(again) ?? false;
  }

  /**
   * Applies once more what a sink has had already: it goes back, and the pipeline begins again from there. Resolves with
   * what was found once the sink has durably gone back; rejects, with nothing changed, where it cannot.
   */
  async replay(request: ReplayRequest): Promise<ReplayPlan> {
    const applier = this.#appliers.find(({ sink }) => sink.name === request.sink);
    if (!applier || !this.#transport) throw busy(`sink "${request.sink}" is not open`);
    // Before anything is closed: what can be wrong is wrong already.
    await checkReplay(request, this.#options.config, this.#transport, applier);
    return new Promise((resolve, reject) => {
      let done = false;
      const onOpen: BeginAgain['onOpen'] = async (sink, state, identity) => {
        if (done) return state;
        try {
          const rewound = await this.#rewind(request, sink, state, identity);
          done = rewound.plan !== null;
          if (rewound.plan) resolve(rewound.plan);
          return rewound.state;
        } catch (error) {
          reject(error);
          return state;
        }
      };
      if (!this.beginAgain({ reason: `replay into sink "${request.sink}"`, onOpen }))
        reject(busy('the pipeline is stopping'));
    });
  }

  #rewind(request: ReplayRequest, sink: Sink, state: SinkState, identity: SourceIdentity): Promise<Rewound> {
    const { config, log } = this.#options;
    return rewindSink(request, {
      config,
      log,
      transport: this.#transport!,
      capture: this.#capture,
      ...{ sink, state, identity, letters: this.#letters!.store.of(sink.name) },
    });
  }

  /** From opening everything to closing it. Resolves with why it is to be done once more, or null when it is done. */
  async #session(until: RunGoal, signal: AbortSignal): Promise<BeginAgain | null> {
    const reading = new AbortController();
    const applying = new AbortController();
    const failed = new AbortController();
    const outer = AbortSignal.any([signal, failed.signal]);
    outer.addEventListener('abort', () => reading.abort(), { once: true });
    // Opening may wait long for servers that do not answer.
    outer.addEventListener('abort', () => this.#state === 'starting' && this.#transport?.close(), { once: true });
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
      this.#patience.opened();
      if (until === 'rewound') return null;
      this.#watch?.start();
      loops = Promise.all(this.#appliers.map(({ loop }) => loop.run(applying.signal).catch(fail)));
      if (this.#capture?.needsCopy && !outer.aborted) {
        this.#state = 'copying';
        await this.#capture.copy(outer);
        // Whatever fails from here on is no reason to copy once more.
        if (!outer.aborted) this.#again = { reason: this.#again.reason };
      }
      if ((until !== 'copied' || this.#capture?.filled === false) && !outer.aborted) {
        const rests = until === null && this.#capture !== null && !this.#options.config.source.follow;
        this.#state = rests ? 'resting' : 'streaming';
        const streamed = rests ? undefined : this.#capture?.stream(reading.signal, until !== null).catch(fail);
        const streaming = streamed ?? waitForAbort(reading.signal);
        if (until !== null)
          await caughtUp(
            target,
            { bound: this.#bound, capture: this.#capture, appliers: this.#appliers, log: this.#options.log },
            outer,
          );
        else await waitForAbort(outer);
        reading.abort();
        await streaming;
      }
    } catch (error) {
      if (this.#state !== 'starting' || !signal.aborted) failure ??= error;
    } finally {
      this.#interrupt = null;
      this.#state = 'stopping';
      reading.abort();
      again ??= this.#minder.remedy(failure) ?? beginsAgain(failure);
      // At once: what hangs in a sink must not keep the source's WAL.
      if ((again as BeginAgain | null)?.recopy) await this.#capture?.abandonSlot();
      await this.#drain(failure !== null || again !== null || this.#options.until !== undefined);
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

  /** The configuration was edited while it runs: from the next look at the tables on, these patterns count. */
  want(wanted: WantedTables): void {
    this.#wanted = wanted;
    this.#capture?.tables.want(wanted);
  }

  status(): PipelineStatus {
    return this.#reporter.report(
      this.#state,
      this.#patience.failure,
      this.#transport,
      this.#capture,
      this.#watch?.status ?? null,
      this.#appliers,
      this.#letters,
    );
  }

  /** Read-only SQL on a sink that speaks it. */
  query(sql: string, options: QueryOptions): Promise<QueryResult> {
    const sinks = this.#appliers.map(({ sink }) => sink);
    return querySink(sinks, sql, options, this.#arrivals);
  }

  /** Compares the open sinks with the source while everything goes on; see Validator.run. */
  async validate(request: ValidationRequest, watch: ValidationWatch): Promise<ValidationReport> {
    const { validateSinks } = await import('./validate.ts'); // Few runs validate.
    return validateSinks(request, watch, { ...this.#options, appliers: this.#appliers, arrivals: this.#arrivals });
  }

  async checkValidation(request: ValidationRequest): Promise<void> {
    const { checkValidation } = await import('./validate.ts');
    await checkValidation(request, { ...this.#options, appliers: this.#appliers, arrivals: this.#arrivals });
  }

  /** The open sink of that name; null where there is none. */
  sink(name: string): Sink | null {
    return this.#opened.find((sink) => sink.name === name) ?? null;
  }

  async #build(): Promise<Transport> {
    const { config, log, role, tracer = null } = this.#options;
    const { recopy = false } = this.#again;
    this.#letters = new PipelineLetters(config, log);
    const transport = await createTransport(config, log, this.#letters.ofLog);
    this.#transport = transport;
    if (role === 'apply') return transport;
    const onCopyProgress = (progress: SnapshotProgress): void => {
      this.#reporter.noteCopy(progress);
      this.#options.onCopyProgress?.(progress);
    };
    const capture = new Capture({ config, transport, log, recopy, recent: this.recent, onCopyProgress, tracer });
    if (this.#wanted) capture.tables.want(this.#wanted);
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
    const letters = this.#letters!;
    const identity = capture ? await capture.prepare(signal) : await transport.identity(signal);
    const sinks =
      role === 'capture'
        ? []
        : await openSinks(
            config,
            this.#options.sinks ?? [],
            identity,
            letters.store,
            this.#opened,
            this.#again.onOpen,
            log,
          );
    if (capture && config.transport.type === 'in-process') checkSinks(capture, sinks, log);
    const lacking: { name: string; state: SinkState }[] = [];
    if (capture) {
      const confirmed = capture.needsCopy ? null : (capture.confirmed?.confirmedFlushLsn ?? null);
      await transport.openCapture(identity, confirmed, capture.tables.captured);
    }
    for (const opened of sinks) {
      const { sink, state } = opened;
      const { applier, lacks } = await openApplier(opened, {
        ...{ config, transport, log, tracer: this.#options.tracer ?? null },
        letters: await letters.ofLoop(sink, state),
        onLacking: (oid) => this.#refills?.setAside(sink.name, oid),
        beginAgain: (reason) => this.beginAgain({ reason }),
        bounded: (subscription) => this.#bounded(sink, subscription, state.offsets),
      });
      this.#appliers.push(applier);
      if (lacks) lacking.push({ name: sink.name, state });
    }
    this.#arrivals.follow(this.#appliers, (applier) => this.#reporter.lags.advanced(applier, capture));
    await fillSinks(config, capture, lacking);
    const parts = { config, keeper: capture?.tables ?? null, appliers: this.#appliers, log };
    this.#refills = Refills.start(parts, lacking);
    if (this.#appliers.length > 0 || config.transport.type === 'kafka') await letters.start(this.#appliers, transport);
    if (until !== 'caught-up') return 0n;
    return capture ? capture.wal.inserted : await applyTarget(config.source, this.#appliers, log);
  }

  /** Ends where the replay is to stop. */
  #bounded(sink: Sink, subscription: Subscription, offsets: readonly Offset[]): Subscription {
    const { replay, until } = this.#options;
    if (until === undefined || sink.name !== replay?.sink) return subscription;
    this.#bound = new UntilSubscription(subscription, until, offsets);
    return this.#bound;
  }

  /** What was published is applied and acknowledged, so that little comes again; a hanging sink may take the time given, no more. */
  async #drain(failing: boolean): Promise<void> {
    const capture = this.#capture;
    if (failing || !capture) return;
    const { config, log } = this.#options;
    const vain = (): boolean => this.#transport?.unreachable === true;
    if (!(await within(config.shutdownTimeoutMs, vain, (bound) => capture.drain(bound))))
      log.warn(
        'ending though not all that was published is durable: the slot keeps it, and it comes again at the next start',
      );
  }

  async #close(): Promise<void> {
    const { log } = this.#options;
    const quietly = (what: string, work: Promise<unknown> | undefined): Promise<unknown> =>
      (work ?? Promise.resolve()).catch((error: unknown) => log.warn(`closing ${what}: ${messageOf(error)}`));
    for (const { subscription, sink } of this.#appliers)
      await quietly(`subscription of ${sink.name}`, subscription.close());
    this.#refills?.stop();
    await quietly('dead letters', this.#letters?.close());
    await quietly('watch', this.#watch?.stop());
    await quietly('source', this.#capture?.close());
    await quietly('transport', this.#transport?.close());
    for (const sink of this.#opened) await quietly(`sink ${sink.name}`, sink.close());
  }
}
