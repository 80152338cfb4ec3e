import { Command } from 'commander';
import { toJson } from '../../api/json.ts';
import { type RunStatistics, runStatistics } from '../../postgres/run-statistics.ts';
import { listSyncStatus } from '../../postgres/runs.ts';
import { withSession } from '../../postgres/session.ts';
import type { CliContext } from '../context.ts';
import { parseMoment } from '../moment.ts';
import { formatCount, formatDuration, formatTable } from '../output.ts';

/** `waltide stats`: what became of the runs of each sync type. */
export function statsCommand(context: CliContext): Command {
  return new Command('stats')
    .description('What became of the runs of each sync type: success rate, duration, records, kinds of errors.')
    .option('--since <time>', 'runs that began since: 2026-11-22T18:00:00Z, or how long ago: 24h, 7d', '7d')
    .addHelpText(
      'after',
      '\nCancelled runs count neither as success nor as failure.\n\nExamples:\n  waltide stats\n  waltide stats --since 24h --json',
    )
    .action(async ({ since }: { since: string }, command: Command) => {
      const { config, json } = await context.load(command);
      const from = parseMoment(since, '--since');
      const { statistics, status } = await withSession(config.source, 'stats', async (client) => ({
        statistics: await runStatistics(client, from),
        status: await listSyncStatus(client),
      }));
      if (json) return context.print(toJson({ since: from, statistics, status }, 2));
      if (statistics.length === 0) return context.print(`no runs since ${from.toISOString()}`);
      const titles = ['sync type', 'runs', 'success', 'errors', 'average', 'p95', 'records', 'records/s', 'last'];
      context.print(
        formatTable(
          titles.map((title, i) => ({ title, align: i > 0 && i < titles.length - 1 ? 'right' : 'left' })),
          statistics.map(toRow),
        ),
      );
    });
}

function toRow(one: RunStatistics): string[] {
  const classes = Object.entries(one.errorClasses).map(([kind, count]) => `${kind} ${count}`);
  const duration = (seconds: number | null): string => (seconds === null ? '' : formatDuration(seconds));
  return [
    one.syncType,
    formatCount(one.runs),
    one.successRate === null ? '' : `${one.successRate.toFixed(1)} %`,
    classes.join(', ') || '0',
    duration(one.durationSecondsAverage),
    duration(one.durationSecondsP95),
    formatCount(one.records),
    one.recordsPerSecond === null ? '' : formatCount(one.recordsPerSecond),
    `${one.lastStatus} ${one.lastAt.toISOString().replace(/\.\d+/, '')}`,
  ];
}
