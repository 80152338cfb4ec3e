import { Command, Option } from 'commander';
import { toJson } from '../../api/json.ts';
import type { Role } from '../../pipeline/status.ts';
import { type CliContext, EXIT } from '../context.ts';
import { formatCount, printable } from '../output.ts';
import type { RunResult } from '../run-pipeline.ts';

interface Options {
  readonly role: Role;
  readonly untilCaughtUp?: boolean;
  readonly recopy?: boolean;
}

/** `waltide run`: the pipeline itself. */
export function runCommand(context: CliContext): Command {
  return new Command('run')
    .description('Copy existing rows where that has not happened, then stream changes until told to stop.')
    .addOption(
      new Option('--role <role>', 'which part to run; capture and apply need the Kafka transport')
        .choices(['all', 'capture', 'apply'])
        .default('all'),
    )
    .option(
      '--until-caught-up',
      'stop with exit code 0 once every sink has saved past the end of WAL of when this began',
    )
    .option('--recopy', 'drop the slot and copy every table anew, replacing rows in all sinks')
    .addHelpText(
      'after',
      `
Ctrl-C or SIGTERM stops in order, within shutdownTimeoutMs; a second one quits at once.

Examples:
  waltide run                                  until stopped
  waltide run --until-caught-up                for cron and tests; exit code 3 if a table is stopped
  waltide run --role capture                   PostgreSQL to Kafka only
  waltide run --recopy --until-caught-up`,
    )
    .action(async (options: Options, command: Command) => {
      const loaded = await context.load(command);
      if (options.role !== 'all' && loaded.config.transport.type !== 'kafka')
        command.error(
          `error: --role ${options.role} needs transport.type kafka: in-process capture and sinks share one process`,
        );
      if (!loaded.config.enabled) {
        context.note(
          '`enabled` is false in the configuration: nothing is done. A slot that is there goes on keeping WAL.',
        );
        return loaded.json ? context.print(toJson({ ok: true, enabled: false }, 2)) : undefined;
      }
      const until = options.untilCaughtUp ? 'caught-up' : null;
      // Loaded late: DuckDB and Kafka would slow down every other command.
      const { runPipeline } = await import('../run-pipeline.ts');
      const result = await runPipeline(context, loaded, {
        role: options.role,
        until,
        recopy: options.recopy ?? false,
        serves: true,
      });
      report(context, result, until, loaded.json);
    });
}

/** What a run that has a goal prints, and its exit code. */
export function report(
  context: CliContext,
  { stopped, status, interrupted }: Omit<RunResult, 'replayed'>,
  until: 'caught-up' | 'copied' | null,
  json: boolean,
): void {
  const reached = until === null || !interrupted;
  if (!reached) context.exitCode = context.interruptedCode;
  else if (until !== null && stopped.length > 0) context.exitCode = EXIT.tableStopped;
  if (json) context.print(toJson({ ok: reached && stopped.length === 0, until, reached, stopped, status }, 2));
  else if (until !== null) describe(context, { stopped, status, interrupted }, until);
}

function describe(
  context: CliContext,
  { stopped, status, interrupted }: Omit<RunResult, 'replayed'>,
  until: 'caught-up' | 'copied',
): void {
  for (const { sink, table, reason } of stopped)
    context.note(`stopped: ${printable(table)} in sink ${sink}: ${printable(reason)}`);
  if (interrupted) {
    context.note(`interrupted before ${until === 'copied' ? 'the copy was finished' : 'it was caught up'}`);
  } else if (until === 'copied') {
    const rows = formatCount(status.copy.reduce((sum, table) => sum + table.rows, 0));
    const tables = status.copy.length === 1 ? '1 table' : `${status.copy.length} tables`;
    context.print(
      status.copy.length > 0 ? `ready: ${rows} rows of ${tables} are copied` : 'ready: nothing was left to copy',
    );
  } else {
    const sinks = status.sinks.map((sink) => `${sink.name} ${formatCount(sink.events)} events, at ${sink.appliedLsn}`);
    context.print(`caught up: ${sinks.join('; ') || `${formatCount(status.source?.events ?? 0)} events`}`);
  }
}
