import { AuditLog } from '../api/audit.ts';
import { ControlServer } from '../api/control-server.ts';
import type { Deps } from '../api/route.ts';
import type { ApiServer } from '../api/server.ts';
import { Alerter } from '../control/alerts/alerter.ts';
import { type Companion, instanceOf } from '../control/companion.ts';
import { replayRefused } from '../control/replay-run.ts';
import { Scheduler } from '../control/scheduler.ts';
import { SnapshotRuns } from '../control/snapshot-runs.ts';
import { WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import { type MetricsServer, startMetricsServer } from '../metrics/server.ts';
import { Stored } from '../metrics/stored.ts';
import { Pipeline, type RunEnd, type RunGoal } from '../pipeline/pipeline.ts';
import type { ReplayRequest } from '../pipeline/replay.ts';
import type { PipelineStatus, Role } from '../pipeline/status.ts';
import type { UntilBound } from '../pipeline/until.ts';
import { Sessions } from '../postgres/sessions.ts';
import { Tracker } from '../postgres/tracked.ts';
import { openTracer } from '../tracing/open.ts';
import { VERSION } from '../version.ts';
import { WriteWorker } from '../write/worker.ts';
import { Writer } from '../write/writer.ts';
import { watchConfig } from './config-watch.ts';
import type { CliContext, Loaded } from './context.ts';
import { CopyReporter } from './progress.ts';

/** What closing sources and sinks may take beyond draining. */
const CLOSE_GRACE_MS = 5000;

export interface RunOptions {
  readonly role: Role;
  readonly until: RunGoal;
  readonly recopy: boolean;
  /** Done before anything else; with `stopAt`, the run ends there. */
  readonly replay?: ReplayRequest;
  readonly stopAt?: UntilBound;
  /** With metrics and API: not for a run of seconds, which nobody asks. */
  readonly serves: boolean;
}

export interface RunResult extends RunEnd {
  /** The last picture before the end. */
  readonly status: PipelineStatus;
  /** True where a signal ended it before its goal was reached. */
  readonly interrupted: boolean;
}

/** Runs a pipeline with all that surrounds it: control address, metrics, copy progress, and a bound on draining. */
export async function runPipeline(
  context: CliContext,
  { config, log, file, reload }: Loaded,
  options: RunOptions,
): Promise<RunResult> {
  context.drains = true;
  const progress = new CopyReporter(context.io.stderr, log);
  const { role, until, recopy, replay, stopAt } = options;
  // The pipeline makes schema "waltide" what it must be, and tells better what is in its way.
  const { source, tracking } = config;
  const tracker = new Tracker({ source, tracking, log, version: VERSION, role, setsUp: false });
  const snapshots = new SnapshotRuns(tracker, source.slot, log);
  const tracer = await openTracer(config, log);
  const pipeline = new Pipeline({
    config,
    role,
    log,
    recopy,
    tracer,
    onCopyProgress: (copied) => {
      progress.note(copied);
      snapshots.note(copied);
    },
    ...(replay && { replay }),
    ...(stopAt && { until: stopAt }),
  });
  const unwatch = watchConfig({
    file,
    config,
    log,
    load: reload,
    onTables: (wanted) => pipeline.want(wanted),
  });
  const status = (): PipelineStatus => pipeline.status();
  // Before anything connects: a port that the user chose and cannot have is an error at once.
  const sessions = new Sessions(config.source, 'api');
  const metrics: MetricsServer | null = options.serves
    ? await startMetricsServer(config.metrics, status, log, new Stored(sessions, config))
    : null;
  const writer = config.writes.enabled ? new Writer({ config, log, sinks: pipeline }) : null;
  const deps: Deps = { config, log, pipeline, sessions, tracker, writer };
  const alerter = new Alerter({ config, log, sessions, instance: tracker.instance, role, pipeline });
  const audit = new AuditLog(sessions, log);
  let control: ControlServer | null = null;
  const companions = [
    ...companionsOf(deps, audit, options),
    snapshots,
    ...(until === null ? [new Scheduler({ config, log, tracker, pipeline }, role), alerter] : []),
  ];
  const overdue = drainBound(context.signal, config.shutdownTimeoutMs + CLOSE_GRACE_MS);
  tellStopping(context.signal, config.shutdownTimeoutMs, log);
  try {
    control = await ControlServer.start({ role, deps, audit });
    for (const companion of companions) await companion.start();
    const running = () => run(pipeline, until, context.signal);
    const ended = replay
      ? tracker.tracked(`replay:${replay.sink}`, running, { retry: false, refused: replayRefused })
      : running();
    const end = await Promise.race([ended, overdue.promise]);
    return { ...end, status: pipeline.status(), interrupted: context.signal.aborted };
  } finally {
    overdue.cancel();
    unwatch();
    progress.end();
    for (const companion of [...companions].reverse()) await companion.stop();
    await Promise.all([control?.close(), metrics?.close()]);
    await Promise.all([sessions.close(), deps.writer?.close(), tracer?.close()]);
  }
}

/** What runs beside the pipeline, in the order in which it starts. */
function companionsOf(deps: Deps, audit: AuditLog, { serves }: RunOptions): readonly Companion[] {
  const { config, tracker } = deps;
  return [
    ...(serves && config.api.enabled ? [apiOf(deps, audit)] : []),
    instanceOf(tracker),
    ...(serves && config.writes.enabled ? [new WriteWorker(deps)] : []),
  ];
}

/** Loaded late: most pipelines open no address to others. */
function apiOf(deps: Deps, audit: AuditLog): Companion {
  let server: ApiServer | null = null;
  return {
    start: async () => {
      const { startApiServer } = await import('../api/server.ts');
      server = await startApiServer(deps, audit);
    },
    stop: async () => server?.close(),
  };
}

function tellStopping(signal: AbortSignal, withinMs: number, log: Log): void {
  const tell = (): void =>
    log.info({ signal: signal.reason as string, withinMs }, 'stopping; a second signal quits at once');
  signal.addEventListener('abort', tell, { once: true });
}

/** As Pipeline.run; a wait that the signal cut short is no failure. */
async function run(pipeline: Pipeline, until: RunOptions['until'], signal: AbortSignal): Promise<RunEnd> {
  try {
    return await pipeline.run(until, signal);
  } catch (error) {
    if (signal.aborted && error instanceof Error && error.name === 'AbortError') return { stopped: [], replayed: null };
    throw error;
  }
}

/** Rejects when draining takes too long after the signal; a hanging sink must not keep the process. */
function drainBound(signal: AbortSignal, boundMs: number): { promise: Promise<never>; cancel: () => void } {
  let timer: NodeJS.Timeout | undefined;
  let start: () => void = () => {};
  const promise = new Promise<never>((_resolve, reject) => {
    start = () => {
      timer = setTimeout(() => {
        const help =
          'Nothing is lost: what was in flight comes again at the next start. Raise shutdownTimeoutMs if it happens often.';
        reject(new WaltideError('SINK', `draining was not finished within ${Math.round(boundMs / 1000)} s`, help));
      }, boundMs);
    };
    signal.addEventListener('abort', start, { once: true });
  });
  promise.catch(() => {});
  const cancel = (): void => {
    clearTimeout(timer);
    signal.removeEventListener('abort', start);
  };
  return { promise, cancel };
}
