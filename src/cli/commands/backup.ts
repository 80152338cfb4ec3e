import { resolve } from 'node:path';
import { Command } from 'commander';
import { backUpThroughProcess } from '../../api/control-client.ts';
import { toJson } from '../../api/json.ts';
import { sinkConfig } from '../../control/store-runs.ts';
import { backUpSink } from '../../sink/registry.ts';
import { chooseSink } from '../choose-sink.ts';
import type { CliContext, Loaded } from '../context.ts';
import { followRun } from '../follow-run.ts';
import { formatBytes, formatCount } from '../output.ts';
import { sinkHolder } from '../sink-holder.ts';

/** `waltide backup`: a copy of a sink's store with its offsets, beside the process that holds it or while none does. */
export function backupCommand(context: CliContext): Command {
  return new Command('backup')
    .description('Copy the DuckDB file of a sink, offsets included, while the stream runs or while nothing does.')
    .option('--sink <name>', 'which sink; needed where there are several')
    .requiredOption(
      '--to <file>',
      'the file to write; an older backup there is replaced once the new one has been read, anything else is refused',
    )
    .addHelpText(
      'after',
      `
The copy is of one position and is read whole before it takes its name. \`waltide restore\` brings it back: docs/recovery.md.

Examples:
  waltide backup --to /srv/backups/analytics.duckdb`,
    )
    .action(async (options: { readonly sink?: string; readonly to: string }, command: Command) => {
      const loaded = await context.load(command);
      context.drains = true;
      const sink = chooseSink(loaded.config, options.sink);
      const done = await work(context, loaded, sink, resolve(context.io.cwd, options.to));
      context.print(loaded.json ? toJson({ ok: true, ...done }, 2) : done.path);
      if (!loaded.json)
        context.note(
          `${done.tables} tables, ${formatCount(done.rows)} rows, ${formatBytes(done.bytes)}, as of ${done.lsn}`,
        );
    });
}

interface Done {
  readonly path: string;
  readonly rows: number;
  readonly bytes: number;
  readonly tables: number;
  readonly lsn: string;
}

async function work(context: CliContext, { config }: Loaded, sink: string, to: string): Promise<Done> {
  const holder = await sinkHolder(config, sink);
  if (holder) {
    const id = await backUpThroughProcess(holder, sink, to);
    const { records, metadata } = await followRun(config, holder, id, context.signal);
    return { ...(metadata as unknown as Omit<Done, 'rows'>), rows: records };
  }
  const { path, bytes, lsn, tables } = await backUpSink(sinkConfig(config, sink), null, to, {
    signal: context.signal,
    note: () => {},
  });
  return { path, bytes, lsn, tables: tables.length, rows: tables.reduce((sum, { rows }) => sum + rows, 0) };
}
