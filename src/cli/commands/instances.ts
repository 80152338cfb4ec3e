import { Command } from 'commander';
import { toJson } from '../../api/json.ts';
import { type InstanceRecord, listInstances } from '../../postgres/instances.ts';
import { withSession } from '../../postgres/session.ts';
import type { CliContext } from '../context.ts';
import { formatDuration, formatTable } from '../output.ts';

/** `waltide instances`: the processes that work with this source. */
export function instancesCommand(context: CliContext): Command {
  return new Command('instances')
    .description('Processes that work with this source, wherever they run: their last sign of life, what they run now.')
    .option('--all', 'also those that have stopped, until the history forgets them')
    .addHelpText(
      'after',
      `
alive: its heartbeat is fresh. silent: none for longer than tracking.heartbeatTimeoutMs; its runs are closed as abandoned
by another instance. stopped: it ended in order, or was found dead.

Examples:
  waltide instances
  waltide instances --all --json`,
    )
    .action(async ({ all = false }: { all?: boolean }, command: Command) => {
      const { config, json } = await context.load(command);
      const instances = await withSession(config.source, 'instances', (client) => listInstances(client, all));
      if (json) return context.print(toJson(instances, 2));
      if (instances.length === 0) return context.print('no instances');
      const titles = ['instance', 'state', 'role', 'slot', 'version', 'up for', 'heartbeat', 'running'];
      context.print(
        formatTable(
          titles.map((title) => ({ title })),
          instances.map(toRow),
        ),
      );
    });
}

function toRow({
  id,
  state,
  role,
  slot,
  version,
  startedAt,
  heartbeatAt,
  stoppedAt,
  running,
}: InstanceRecord): string[] {
  const since = (from: Date, to = new Date()): string => formatDuration(Math.max(0, +to - +from) / 1000);
  return [
    id,
    state,
    role,
    slot,
    version,
    since(startedAt, stoppedAt ?? undefined),
    `${since(heartbeatAt)} ago`,
    running.join(', '),
  ];
}
