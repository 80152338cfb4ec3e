import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import {
  type Found,
  findProcesses,
  type RunningProcess,
  replayProcess,
  type StartedReplay,
} from '../../api/control-client.ts';
import { toJson } from '../../api/json.ts';
import { WaltideError } from '../../errors.ts';
import { formatLsn, parseLsn } from '../../event/lsn.ts';
import { parseRelationName } from '../../event/relation.ts';
import type { ReplayRequest } from '../../pipeline/replay.ts';
import type { StartOf } from '../../transport/transport.ts';
import { patternList } from '../arguments.ts';
import { chooseSink } from '../choose-sink.ts';
import type { CliContext, Loaded } from '../context.ts';
import { parseLsnOption, parseLsnOrMoment, parseMoment } from '../moment.ts';
import { formatBytes } from '../output.ts';
import { Patience } from '../patience.ts';
import { holding, nobodyApplies, notHeld } from '../sink-holder.ts';

interface Options {
  readonly sink?: string;
  readonly table?: readonly string[];
  readonly fromLsn?: string;
  readonly since?: string;
  readonly until?: string;
  readonly run?: boolean;
  readonly wait: boolean;
}

const POLL_MS = 500;
/** A running process that has begun again for this long without its sink has a fault that its log tells. */
const ABSENT_MAX_MS = 60_000;

/** What the command line means, before anybody is asked. */
interface Asked {
  readonly request: ReplayRequest;
  /** Null: up to the present. */
  readonly until: ReturnType<typeof parseLsnOrMoment> | null;
}

/** `waltide replay`: applies changes once more. */
export function replayCommand(context: CliContext): Command {
  return new Command('replay')
    .description('Apply changes once more to a sink, from an LSN or a time on: idempotently, and safe to interrupt.')
    .option('--sink <name>', 'which sink; needed where there are several')
    .option('--table <schema.table>', 'only this table; may be given several times (default: all)', patternList)
    .option('--from-lsn <lsn>', 'from this LSN on, such as 16/B374D848')
    .option('--since <time>', 'from this time on: 2026-11-22T18:00:00Z, or how long ago: 2h, "30 minutes ago"')
    .option('--until <lsn|time>', 'go no further: the sink stops there, and the next run goes on from it')
    .option('--run', 'where no process runs: apply it now, up to the present, and end')
    .option('--no-wait', 'do not wait until the running process is done')
    .addHelpText(
      'after',
      `
With Kafka, changes come again from the topics; in-process, from the WAL that the slot still retains: set source.retain
to be able to go back. A running process does it by itself and streams on; without one the sink goes back, and the next
\`waltide run\` applies. What cannot be replayed is refused with the range that is missing, and nothing is changed.

Examples:
  waltide replay --since 2h
  waltide replay --sink analytics --table public.orders --from-lsn 16/B374D848
  waltide replay --since 2026-11-22T18:00:00Z --until 2026-11-22T19:30:00Z`,
    )
    .action(async (options: Options, command: Command) => {
      const loaded = await context.load(command);
      const { request, until } = readRequest(loaded, options);
      const { config } = loaded;
      const found = await findProcesses(config.stateDir, config.source.slot);
      const holder = holding(found, request.sink);
      if (holder) return throughProcess(context, loaded, holder, request, options);
      if (!nobodyApplies(found)) throw notHeld(found, config.stateDir, request.sink);
      await byItself(context, loaded, request, until, options);
    });
}

function readRequest({ config }: Loaded, options: Options): Asked {
  const { fromLsn, since } = options;
  if ((fromLsn === undefined) === (since === undefined))
    throw new WaltideError(
      'USAGE',
      'say where to begin: --from-lsn or --since, one of them',
      'For example: waltide replay --since 2h.',
    );
  const from: StartOf =
    since === undefined ? { lsn: parseLsnOption(fromLsn!, '--from-lsn') } : { time: parseMoment(since, '--since') };
  const until = options.until === undefined ? null : parseLsnOrMoment(options.until, '--until');
  const tables = options.table?.map(parseRelationName) ?? null;
  return { request: { sink: chooseSink(config, options.sink), tables, from }, until };
}

async function throughProcess(
  context: CliContext,
  { config, json }: Loaded,
  { file }: RunningProcess,
  request: ReplayRequest,
  options: Options,
): Promise<void> {
  if (options.until !== undefined)
    throw new WaltideError(
      'USAGE',
      `--until needs the sink to itself, and the process with pid ${file.pid} holds it`,
      'Stop that process first; a run that is started afterwards goes on from there to the present.',
    );
  const started = await replayProcess(file, request);
  context.note(`sink "${started.sink}" has gone back ${describe(started)}; it applies again up to ${started.stoodAt}`);
  if (options.wait) await follow(context, config.stateDir, config.source.slot, started);
  if (json) context.print(toJson({ ok: true, ...started, waited: options.wait }));
  else
    context.print(
      options.wait ? `replayed ${describe(started)} up to ${started.stoodAt}` : 'replaying; see `waltide status`',
    );
}

function describe({ from, tables }: Pick<StartedReplay, 'from' | 'tables'>): string {
  return `${tables ? `${tables.join(', ')} ` : ''}from ${from ?? 'the time asked for'}`;
}

/** Tells how far it is until the sink is where it was. One that is slow to answer is waited for: only what is gone has ended. */
async function follow(context: CliContext, stateDir: string, slot: string, started: StartedReplay): Promise<void> {
  const end = parseLsn(started.stoodAt);
  const patience = new Patience(context);
  let seenAt = Date.now();
  for (let told = 0; ; await sleep(POLL_MS)) {
    const found = await findProcesses(stateDir, slot);
    const [slow] = found.slow;
    const sink = holding(found, started.sink)?.status.sinks.find(({ name }) => name === started.sink);
    if (!sink) {
      if (slow) {
        patience.silent(slow, Date.now() - seenAt);
        continue;
      }
      if (Date.now() - seenAt < ABSENT_MAX_MS && found.running.length > 0) continue;
      throw lost(found, stateDir, started.sink);
    }
    patience.heard();
    seenAt = Date.now();
    const applied = parseLsn(sink.appliedLsn);
    if (applied >= end) return;
    if (seenAt - told < 2000) continue;
    told = seenAt;
    context.note(`  at ${sink.appliedLsn} of ${started.stoodAt}, ${formatBytes(Number(end - applied))} of WAL to go`);
  }
}

function lost(found: Found, stateDir: string, sink: string): WaltideError {
  const message = nobodyApplies(found)
    ? 'the process that was replaying has ended'
    : notHeld(found, stateDir, sink).message;
  return new WaltideError(
    'NOT_RUNNING',
    message,
    'See its log. Nothing is lost: it, or the next `waltide run`, goes on with the replay.',
  );
}

async function byItself(
  context: CliContext,
  loaded: Loaded,
  request: ReplayRequest,
  until: Asked['until'],
  options: Options,
): Promise<void> {
  // Loaded late: DuckDB and Kafka would slow down every other command.
  const { runPipeline } = await import('../run-pipeline.ts');
  const { findUntil } = await import('../../pipeline/replay.ts');
  const { config, json } = loaded;
  const stopAt = until === null ? undefined : await findUntil(config, until, request.from);
  const runs = stopAt !== undefined || options.run === true;
  const { status, interrupted, replayed } = await runPipeline(context, loaded, {
    role: config.transport.type === 'kafka' ? 'apply' : 'all',
    until: runs ? 'caught-up' : 'rewound',
    recopy: false,
    serves: false,
    replay: request,
    ...(stopAt && { stopAt }),
  });
  if (interrupted || !replayed) {
    context.exitCode = context.interruptedCode;
    context.note('interrupted; where the sink had gone back, the next `waltide run` goes on with the replay');
    return;
  }
  const applied = status.sinks.find(({ name }) => name === request.sink)?.appliedLsn ?? null;
  const started = {
    ...replayed,
    from: replayed.from === null ? null : formatLsn(replayed.from),
    stoodAt: formatLsn(replayed.stoodAt),
  };
  const { sink, tables, from, stoodAt } = started;
  if (json) return context.print(toJson({ ok: true, sink, tables, from, stoodAt, applied: runs ? applied : null }));
  if (stopAt)
    context.print(
      `replayed ${describe(started)}; the sink stands at ${applied}, the next \`waltide run\` goes on from there`,
    );
  else if (runs) context.print(`replayed ${describe(started)} up to the present (${applied})`);
  else
    context.print(
      `sink "${sink}" has gone back ${describe(started)}; the next \`waltide run\` applies it again up to ${stoodAt}`,
    );
}
