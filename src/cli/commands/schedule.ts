import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import type pg from 'pg';
import { toJson } from '../../api/json.ts';
import type { Config, ScheduleConfig } from '../../config/schema.ts';
import { canDo, jobOf } from '../../control/jobs.ts';
import { listSchedules, type ScheduleView } from '../../control/schedules.ts';
import { WaltideError } from '../../errors.ts';
import { migrate } from '../../postgres/control.ts';
import { listInstances } from '../../postgres/instances.ts';
import { type RunRecord, readRun } from '../../postgres/runs.ts';
import { readSchedules, requestScheduleRun, takeRequest } from '../../postgres/schedules.ts';
import { withSession } from '../../postgres/session.ts';
import { Tracker } from '../../postgres/tracked.ts';
import { VERSION } from '../../version.ts';
import { type CliContext, EXIT, type Loaded } from '../context.ts';
import { formatCount, formatDuration, formatTable } from '../output.ts';

const POLL_MS = 300;
/** A process looks as soon as it is told, and every 10 s in any case. */
const TAKE_MAX_MS = 15_000;

/** `waltide schedule list | run`. */
export function scheduleCommand(context: CliContext): Command {
  return new Command('schedule')
    .description('Work that is done at certain times (`schedules` of the configuration): what is when, and run it now.')
    .addCommand(listCommand(context))
    .addCommand(runCommand(context))
    .addHelpText('after', '\nExamples:\n  waltide schedule list\n  waltide schedule run cleanup');
}

function listCommand(context: CliContext): Command {
  return new Command('list')
    .description('The schedules, with their last and next run.')
    .addHelpText('after', '\nExamples:\n  waltide schedule list\n  waltide schedule list --json')
    .action(async (_options: unknown, command: Command) => {
      const { config, json } = await context.load(command);
      const schedules = await withSession(config.source, 'schedule', (client) => listSchedules(client, config));
      if (json) return context.print(toJson(schedules, 2));
      if (schedules.length === 0) return context.print('no schedules in the configuration');
      const titles = ['schedule', 'type', 'cron', 'zone', 'last run', 'status', 'took', 'next run', 'note'];
      context.print(
        formatTable(
          titles.map((title) => ({ title })),
          schedules.map(toRow),
        ),
      );
    });
}

const time = (at: Date | null): string => at?.toISOString().replace(/\.\d+/, '') ?? '';

function toRow({ name, type, cron, timeZone, enabled, lastRun, nextAt, note }: ScheduleView): string[] {
  return [
    name,
    type,
    cron,
    timeZone,
    time(lastRun?.startedAt ?? null),
    lastRun?.status ?? '',
    lastRun ? formatDuration(lastRun.durationSeconds) : '',
    enabled ? time(nextAt) : 'disabled',
    note ?? lastRun?.error ?? '',
  ];
}

function runCommand(context: CliContext): Command {
  return new Command('run')
    .description('Do the work of a schedule now, whatever its cron says.')
    .argument('<name>', 'of the schedule')
    .option('--no-wait', 'do not wait until it is done')
    .addHelpText(
      'after',
      `
A running process does it; without one, what needs neither the slot nor a sink (cleanup, pull, module) is done here.
Exit code 1 where it failed.

Examples:
  waltide schedule run cleanup
  waltide schedule run full --no-wait`,
    )
    .action(async (name: string, { wait }: { wait: boolean }, command: Command) => {
      const loaded = await context.load(command);
      const schedule = find(loaded.config, name);
      context.drains = true;
      const run = await withSession(loaded.config.source, 'schedule', async (client) => {
        await migrate(client);
        return (await isServed(client, loaded.config, schedule))
          ? throughProcess(context, client, loaded, schedule, wait)
          : byItself(context, client, loaded, schedule);
      });
      report(context, run, loaded.json);
    });
}

function find({ schedules }: Config, name: string): ScheduleConfig {
  const found = schedules.find((schedule) => schedule.name === name);
  if (found) return found;
  const names = schedules.map((schedule) => schedule.name).join(', ') || 'none';
  throw new WaltideError('USAGE', `there is no schedule "${name}"`, `Schedules of the configuration: ${names}.`);
}

async function isServed(client: pg.Client, { source }: Config, schedule: ScheduleConfig): Promise<boolean> {
  const instances = await listInstances(client, false);
  return instances.some(
    ({ slot, role, state }) =>
      state === 'alive' &&
      slot === source.slot &&
      (role === 'all' || role === 'capture' || role === 'apply') &&
      canDo(schedule, role),
  );
}

async function throughProcess(
  context: CliContext,
  client: pg.Client,
  { config }: Loaded,
  schedule: ScheduleConfig,
  wait: boolean,
): Promise<RunRecord> {
  const { slot } = config.source;
  const before = (await readSchedules(client, slot)).get(schedule.name)?.lastRunId ?? null;
  await requestScheduleRun(client, slot, schedule);
  const deadline = Date.now() + TAKE_MAX_MS;
  for (;;) {
    const record = (await readSchedules(client, slot)).get(schedule.name);
    const begun = record?.lastRunId && record.lastRunId !== before ? await readRun(client, record.lastRunId) : null;
    if (begun && (!wait || begun.status !== 'in_progress')) return begun;
    if (!begun && record?.note && !record.requestedAt)
      throw new WaltideError('RUN_BUSY', `schedule "${schedule.name}": ${record.note}`, 'Try again when it is over.');
    // Taken back in time, nobody does it later.
    const untaken = record?.requestedAt && (Date.now() > deadline || context.signal.aborted);
    if (untaken && (await takeRequest(client, slot, schedule.name)))
      throw new WaltideError(
        'NOT_RUNNING',
        `no process has taken up schedule "${schedule.name}"`,
        'See whether one with this configuration runs (`waltide instances`): what has been edited takes effect after a restart.',
      );
    if (context.signal.aborted && begun) return begun;
    await sleep(POLL_MS, undefined, { signal: context.signal }).catch(() => {});
  }
}

async function byItself(
  context: CliContext,
  client: pg.Client,
  { config, log }: Loaded,
  schedule: ScheduleConfig,
): Promise<RunRecord> {
  if (!canDo(schedule, null))
    throw new WaltideError(
      'NOT_RUNNING',
      `schedule "${schedule.name}" (${schedule.type}) needs a running process, and none of slot "${config.source.slot}" is there`,
      'Start one with `waltide run`.',
    );
  const { source, tracking } = config;
  const tracker = new Tracker({ source, tracking, log, version: VERSION, role: 'cli' });
  context.signal.addEventListener('abort', () => void tracker.close(), { once: true });
  try {
    await tracker.open();
    const job = jobOf(schedule);
    const deps = { config, log, tracker, pipeline: null };
    let id = '';
    const work = tracker.tracked(
      schedule.name,
      async (run) => {
        id = run.id;
        await job.run(schedule, run, deps);
      },
      { retry: job.retry, metadata: { schedule: { type: schedule.type } } },
    );
    await work.catch((error: unknown) => {
      // Its record tells it, once there is one.
      if (id === '') throw error;
    });
    return (await readRun(client, id))!;
  } finally {
    await tracker.close();
  }
}

function report(context: CliContext, run: RunRecord, json: boolean): void {
  if (context.signal.aborted && run.status === 'in_progress') context.exitCode = context.interruptedCode;
  else if (run.status === 'error') context.exitCode = EXIT.failed;
  const { id, syncType, status, records, durationSeconds, error } = run;
  const words = { in_progress: 'goes on', success: 'is done', error: 'failed' }[status];
  const what = `${syncType} ${words}: run ${id}, ${formatCount(records)} records, ${formatDuration(durationSeconds)}`;
  if (json) context.print(toJson({ ok: status !== 'error', run }, 2));
  else if (error === null) context.print(what);
  else context.note(`${what}: ${error}`);
}
