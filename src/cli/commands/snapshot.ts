import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import type pg from 'pg';
import { findProcesses } from '../../api/control-client.ts';
import { toJson } from '../../api/json.ts';
import type { Config } from '../../config/schema.ts';
import { namesTable, requestSnapshots } from '../../control/snapshot-requests.ts';
import { WaltideError } from '../../errors.ts';
import { controlVersion, migrate } from '../../postgres/control.ts';
import { withSession } from '../../postgres/session.ts';
import {
  isWaiting,
  listSnapshots,
  type SnapshotRecord,
  type SnapshotWish,
  wishSnapshot,
} from '../../postgres/snapshots.ts';
import { secondsLeft } from '../../snapshot/snapshot.ts';
import { positiveInteger } from '../arguments.ts';
import { type CliContext, EXIT } from '../context.ts';
import { formatBytes, formatCount, formatDuration, formatTable, printable } from '../output.ts';
import { SnapshotReporter } from '../snapshot-progress.ts';

const WAIT_POLL_MS = 300;
/** How many that have ended `list` shows. */
const ENDED_MAX = 20;

interface StartOptions {
  readonly sink?: string[];
  readonly where?: string;
  readonly rowsPerSecondMax?: number;
  readonly wait?: boolean;
}

/** `waltide snapshot start | pause | resume | cancel | list`. */
export function snapshotCommand(context: CliContext): Command {
  const parent = new Command('snapshot')
    .description(
      'Read tables again while changes are streamed: to fill a sink, to bring a table back, to replace its rows.',
    )
    .addHelpText(
      'after',
      `
A snapshot is asked for in the source's schema "waltide"; the process that captures (\`waltide run\`) takes it up, and
goes on with it after a crash. Readers see the old rows until all new ones are there. Without --where all rows of the
table are replaced, so that rows which only the sink has are gone afterwards. With --where the rows of the source that
match are brought again, and nothing is removed: \`waltide validate --repair\` also removes what only the sink has.

Examples:
  waltide snapshot start public.orders --wait
  waltide snapshot start orders --sink second --rows-per-second-max 5000
  waltide snapshot start orders --where "created_at > '2026-01-01'"   refreshes these rows in place
  waltide snapshot list`,
    );
  parent.addCommand(startCommand(context));
  parent.addCommand(wishCommand(context, 'pause', 'Pause snapshots; the stream and other tables go on.'));
  parent.addCommand(wishCommand(context, 'resume', 'Go on with paused snapshots where they were.'));
  parent.addCommand(wishCommand(context, 'cancel', 'End snapshots; sinks keep the rows that they had before.'));
  return parent.addCommand(listCommand(context));
}

function startCommand(context: CliContext): Command {
  return new Command('start')
    .description('Ask for snapshots of tables.')
    .argument('<tables...>', 'schema.table or patterns, as in source.tables; schema public may be left out')
    .option('--sink <name...>', 'only for these sinks')
    .option(
      '--where <sql>',
      'bring the rows of the source that meet this condition again, in place; removes none from the sinks',
    )
    .option('--rows-per-second-max <n>', 'read no faster than this', positiveInteger)
    .option('--wait', 'stay until they have ended, and show how far they are')
    .addHelpText(
      'after',
      '\nExamples:\n  waltide snapshot start orders --wait\n  waltide snapshot start "sales.*" --sink second',
    )
    .action(async (patterns: string[], options: StartOptions, command: Command) => {
      const { config, json } = await context.load(command);
      await withSession(config.source, 'snapshot', async (client) => {
        await migrate(client);
        const { sink: sinks = null, where = null, rowsPerSecondMax = null } = options;
        const asked = { patterns, sinks, where, rowsPerSecondMax, reason: 'asked for by hand' };
        const ids = await requestSnapshots(client, config, asked);
        if (options.wait) return await wait(context, client, config, ids, json);
        if (json) context.print(toJson({ ok: true, snapshots: await recordsOf(client, config, ids) }, 2));
        else
          for (const record of await recordsOf(client, config, ids))
            context.print(
              `snapshot ${record.id} of ${nameOf(record)} is asked for${record.where === null ? '' : `: rows${partly(record.where, record.state)}`}`,
            );
        await noteIdle(context, client, config);
      });
    });
}

function wishCommand(context: CliContext, wish: SnapshotWish, description: string): Command {
  return new Command(wish)
    .description(description)
    .argument('<tables...>', 'schema.table or patterns')
    .addHelpText('after', `\nExamples:\n  waltide snapshot ${wish} orders\n  waltide snapshot ${wish} "*.*"`)
    .action(async (patterns: string[], _options: unknown, command: Command) => {
      const { config, json } = await context.load(command);
      await withSession(config.source, 'snapshot', async (client) => {
        const records = await listSnapshots(client, config.source.slot, true);
        const changed: SnapshotRecord[] = [];
        for (const pattern of patterns) {
          const found = records.filter((record) => namesTable(pattern, record));
          if (found.length === 0) throw nothingTo(wish, pattern, records);
          for (const record of found) {
            if (!(await wishSnapshot(client, record.id, wish)))
              throw new WaltideError(
                'USAGE',
                `the snapshot of ${nameOf(record)} is ${record.state}: it cannot ${wish}`,
                'See `waltide snapshot list`.',
              );
            changed.push(record);
          }
        }
        const done = { pause: 'paused', resume: 'resumed', cancel: 'cancelled' }[wish];
        if (json)
          context.print(
            toJson(
              {
                ok: true,
                snapshots: await recordsOf(
                  client,
                  config,
                  changed.map(({ id }) => id),
                ),
              },
              2,
            ),
          );
        else for (const record of changed) context.print(`snapshot ${record.id} of ${nameOf(record)} is ${done}`);
      });
    });
}

function listCommand(context: CliContext): Command {
  return new Command('list')
    .description('Snapshots under way, and the last that have ended.')
    .addHelpText('after', '\nExamples:\n  waltide snapshot list\n  waltide snapshot list --json')
    .action(async (_options: unknown, command: Command) => {
      const { config, json } = await context.load(command);
      const all = await withSession(config.source, 'snapshot', async (client) => {
        await controlVersion(client);
        return listSnapshots(client, config.source.slot, false);
      });
      const active = all.filter(({ finishedAt }) => finishedAt === null);
      const records = [...active, ...all.filter(({ finishedAt }) => finishedAt !== null).slice(0, ENDED_MAX)];
      if (json) return context.print(toJson(records, 2));
      if (records.length === 0) return context.print('no snapshots yet, apart from the first copy');
      const titles = ['table', 'state', 'rows', 'bytes', 'started', 'took', 'sinks', 'why', 'error'];
      context.print(
        formatTable(
          titles.map((title) => ({ title, align: title === 'rows' || title === 'bytes' ? 'right' : 'left' })),
          records.map(cells),
        ),
      );
    });
}

function cells(record: SnapshotRecord): string[] {
  const { state, rows, estimatedRows, bytes, startedAt, finishedAt, sinks, where, reason, error } = record;
  const seconds = startedAt
    ? Math.max(0, ((finishedAt ?? lastAt(record)).getTime() - startedAt.getTime()) / 1000)
    : null;
  const toGo = state === 'running' && seconds ? secondsLeft(record, rows / seconds) : null;
  const left = toGo === null ? '' : `, ${formatDuration(toGo)} left`;
  const share =
    finishedAt === null && estimatedRows > rows ? ` (${Math.floor((rows / estimatedRows) * 100)} %${left})` : '';
  return [
    nameOf(record),
    isWaiting(record) ? 'waiting' : state,
    `${formatCount(rows)}${share}`,
    formatBytes(bytes),
    startedAt?.toISOString().slice(0, 19) ?? '',
    seconds === null ? '' : formatDuration(seconds),
    sinks?.join(', ') ?? 'all',
    where === null ? reason : `${reason}: ${where}`,
    error ?? '',
  ];
}

/** One that waits is at it as well, though it has nothing to save. */
const lastAt = (record: SnapshotRecord): Date => (isWaiting(record) ? new Date() : record.updatedAt);

const nameOf = (table: { readonly schema: string; readonly table: string }): string =>
  printable(`${table.schema}.${table.table}`);

async function recordsOf(client: pg.Client, config: Config, ids: readonly string[]): Promise<SnapshotRecord[]> {
  return (await listSnapshots(client, config.source.slot, false)).filter(({ id }) => ids.includes(id));
}

/** What a condition does not do, which people expect of it. */
function partly(where: string | null, state: SnapshotRecord['state']): string {
  if (where === null || state === 'cancelled' || state === 'failed') return '';
  return ' of the source that match; rows that only the sink has stay (a snapshot without --where, or `waltide validate --repair`, removes them)';
}

/** Nobody would take it up: say so, rather than let someone wait. */
async function noteIdle(context: CliContext, client: pg.Client, config: Config): Promise<void> {
  const { rows } = await client.query('SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND active', [
    config.source.slot,
  ]);
  if (rows.length === 0) context.note('No process is capturing now; it begins with the next `waltide run`.');
}

async function wait(
  context: CliContext,
  client: pg.Client,
  config: Config,
  ids: readonly string[],
  json: boolean,
): Promise<void> {
  context.drains = true;
  await noteIdle(context, client, config);
  const reporter = new SnapshotReporter(context.io.stderr);
  for (;;) {
    const records = await recordsOf(client, config, ids);
    for (const record of records) reporter.note(record);
    if (records.every(({ finishedAt }) => finishedAt !== null)) {
      reporter.end();
      const stopped = await stoppedOf(config, records);
      if (json)
        context.print(
          toJson(
            {
              ok: stopped.length === 0 && records.every(({ state }) => state === 'completed'),
              snapshots: records,
              stopped,
            },
            2,
          ),
        );
      else
        for (const { schema, table, state, rows, where, error } of records)
          context.print(
            `${nameOf({ schema, table })}: ${state}, ${formatCount(rows)} rows${partly(where, state)}${error ? `: ${error}` : ''}`,
          );
      for (const { sink, table, reason } of stopped)
        context.note(`stopped: ${table} in sink ${sink}: ${printable(reason)}`);
      if (records.some(({ state }) => state !== 'completed')) context.exitCode = EXIT.failed;
      else if (stopped.length > 0) context.exitCode = EXIT.tableStopped;
      return;
    }
    await sleep(WAIT_POLL_MS, undefined, { signal: context.signal }).catch(() => {});
    if (context.signal.aborted) {
      reporter.end();
      context.note('They go on; `waltide snapshot list` shows how far they are.');
      context.exitCode = context.interruptedCode;
      return;
    }
  }
}

/** Tables whose rows were all read, and that a sink of a process here could not hold all the same. */
async function stoppedOf(
  { stateDir, source }: Config,
  records: readonly SnapshotRecord[],
): Promise<{ readonly sink: string; readonly table: string; readonly reason: string }[]> {
  const names = new Set(records.map(({ schema, table }) => `${schema}.${table}`));
  const { running } = await findProcesses(stateDir, source.slot);
  return running.flatMap(({ status }) =>
    status.sinks.flatMap(({ name: sink, stopped }) =>
      stopped.flatMap(({ name: table, reason }) =>
        names.has(table) ? [{ sink, table: printable(table), reason }] : [],
      ),
    ),
  );
}

function nothingTo(wish: SnapshotWish, pattern: string, active: readonly SnapshotRecord[]): WaltideError {
  const names = active.map(nameOf).join(', ') || 'none';
  return new WaltideError('USAGE', `there is no snapshot of ${pattern} to ${wish}`, `Snapshots under way: ${names}.`);
}
