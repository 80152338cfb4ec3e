import { Command, Option } from 'commander';
import { toJson } from '../../api/json.ts';
import { listRuns, type RunRecord, type RunStatus } from '../../postgres/runs.ts';
import { withSession } from '../../postgres/session.ts';
import { positiveInteger } from '../arguments.ts';
import type { CliContext } from '../context.ts';
import { parseMoment } from '../moment.ts';
import { formatCount, formatDuration, formatTable, type Paint, paintFor } from '../output.ts';

interface Options {
  readonly type?: string;
  readonly status?: RunStatus;
  readonly instance?: string;
  readonly since?: string;
  readonly before?: string;
  readonly limit: number;
}

/** `waltide history`: the runs of sync work. */
export function historyCommand(context: CliContext): Command {
  return new Command('history')
    .description('Runs of sync work: when each began, how it ended, how much it did, who did it.')
    .option('--type <pattern>', 'only of these sync types; * and ? match within a name')
    .addOption(new Option('--status <status>', 'only those that stand so').choices(['in_progress', 'success', 'error']))
    .option('--instance <pattern>', 'only those that this instance did')
    .option('--since <time>', 'only those that began since: 2026-11-22T18:00:00Z, or how long ago: 2h, 3d')
    .option('--before <id>', 'only those before this one: the next page')
    .option('--limit <n>', 'how many, newest first', positiveInteger, 50)
    .addHelpText(
      'after',
      '\nExamples:\n  waltide history --status error --since 7d\n  waltide history --type "snapshot:*" --json',
    )
    .action(async ({ type, status, instance, since, before, limit }: Options, command: Command) => {
      const { config, json } = await context.load(command);
      const filter = {
        syncType: type,
        status,
        instance,
        since: since === undefined ? undefined : parseMoment(since, '--since'),
        before,
        limit,
      };
      const runs = await withSession(config.source, 'history', (client) => listRuns(client, filter));
      if (json) return context.print(toJson(runs, 2));
      if (runs.length === 0) return context.print('no runs');
      context.print(describe(runs, paintFor(context.io.stdout, context.io.env)));
    });
}

const STATUS_PAINT = { in_progress: 'cyan', success: 'green', error: 'red' } as const;

function describe(runs: readonly RunRecord[], paint: Paint): string {
  const columns = [
    { title: 'id', align: 'right' as const },
    { title: 'began' },
    { title: 'sync type' },
    { title: 'status' },
    { title: 'records', align: 'right' as const },
    { title: 'took', align: 'right' as const },
    { title: 'instance' },
    { title: 'error' },
  ];
  const rows = runs.map((run) => [
    run.id,
    run.startedAt.toISOString().replace(/\.\d+/, ''),
    run.syncType,
    run.status,
    formatCount(run.records),
    formatDuration(run.durationSeconds),
    run.instance,
    run.error === null ? '' : `${run.errorClass ? `${run.errorClass}: ` : ''}${run.error}`,
  ]);
  // Colours come after the table: it counts characters.
  return formatTable(columns, rows)
    .split('\n')
    .map((line, i) => {
      const status = runs[i - 2]?.status;
      return status ? line.replace(`  ${status} `, `  ${paint(STATUS_PAINT[status], status)} `) : line;
    })
    .join('\n');
}
