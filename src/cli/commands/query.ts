import { Command, Option } from 'commander';
import { findProcesses, queryProcess } from '../../api/control-client.ts';
import { toJson } from '../../api/json.ts';
import { QUERY_ROWS_MAX } from '../../api/limits.ts';
import type { Config } from '../../config/schema.ts';
import type { QueryOptions } from '../../pipeline/query.ts';
import { querySinkAtRest } from '../../sink/registry.ts';
import type { QueryResult } from '../../sink/sink.ts';
import { durationMs, positiveInteger } from '../arguments.ts';
import { chooseSink } from '../choose-sink.ts';
import type { CliContext } from '../context.ts';
import { parseLsnOption } from '../moment.ts';
import { formatCell, formatCount, formatTable } from '../output.ts';
import { notHeld, sinkHolder } from '../sink-holder.ts';

interface Options {
  readonly sink?: string;
  readonly minLsn?: string;
  readonly limit: number;
  readonly timeout: number;
  readonly format: 'table' | 'json' | 'ndjson';
}

/** `waltide query`: read-only SQL on a sink, through the process that holds it, or on its file while none does. */
export function queryCommand(context: CliContext): Command {
  return new Command('query')
    .description(
      'Run read-only SQL on a sink: through the running process that holds it open, or on its file while none does.',
    )
    .argument('<sql>', 'one statement that only reads')
    .option('--sink <name>', 'which sink; needed where there are several')
    .option('--min-lsn <lsn>', 'only once the sink holds what was committed before it; see `waltide wait`')
    .option('--limit <rows>', `most rows to print, up to ${QUERY_ROWS_MAX}`, positiveInteger, 1000)
    .option('--timeout <time>', 'how long it may take: 500ms, 30s, 2m (default: 30s)', durationMs, 30_000)
    .addOption(
      new Option('--format <format>', 'table; json: {columns, rows, truncated} (as --json); ndjson: one object per row')
        .choices(['table', 'json', 'ndjson'])
        .default('table'),
    )
    .addHelpText(
      'after',
      `
Examples:
  waltide query 'select count(*) from orders'
  waltide query --sink analytics --limit 10 'select * from orders order by id desc'
  waltide query --format ndjson 'from orders' | jq .id`,
    )
    .action(async (sql: string, options: Options, command: Command) => {
      const { config, json } = await context.load(command);
      if (options.limit > QUERY_ROWS_MAX) command.error(`error: --limit is at most ${QUERY_ROWS_MAX}`);
      const sink = chooseSink(config, options.sink);
      const minLsn = options.minLsn === undefined ? undefined : parseLsnOption(options.minLsn, '--min-lsn');
      const limits = { sink, rowsMax: options.limit, timeoutMs: options.timeout };
      const result = await runQuery(config, sql, { ...limits, ...(minLsn !== undefined && { minLsn }) });
      printResult(context, result, json ? 'json' : options.format);
    });
}

async function runQuery(
  config: Config,
  sql: string,
  options: QueryOptions & { readonly sink: string },
): Promise<QueryResult> {
  const holder = await sinkHolder(config, options.sink);
  if (holder) return queryProcess(holder, sql, options);
  const asked = config.sinks.find((sink) => sink.name === options.sink)!;
  // What a file holds that nobody applies to, nobody can wait for.
  const atRest = options.minLsn === undefined ? await querySinkAtRest(asked, sql, options) : null;
  if (atRest) return atRest;
  throw notHeld(await findProcesses(config.stateDir, config.source.slot), config.stateDir, options.sink);
}

function printResult(context: CliContext, { columns, rows, truncated }: QueryResult, format: Options['format']): void {
  if (format === 'json') {
    context.print(toJson({ columns, rows, truncated }));
  } else if (format === 'ndjson') {
    // As text rather than an object: two columns may share a name.
    const names = columns.map((column) => JSON.stringify(column));
    for (const row of rows) context.print(`{${names.map((name, i) => `${name}:${toJson(row[i] ?? null)}`).join(',')}}`);
  } else {
    const titles = columns.map((title, i) => ({
      title,
      align: isNumeric(rows.map((row) => row[i])) ? ('right' as const) : ('left' as const),
    }));
    context.print(
      formatTable(
        titles,
        rows.map((row) => row.map(formatCell)),
      ),
    );
    context.note(`(${formatCount(rows.length)} ${rows.length === 1 ? 'row' : 'rows'})`);
  }
  if (truncated && format !== 'json')
    context.note(`only the first ${formatCount(rows.length)} rows are shown; raise --limit for more`);
}

/** Large integers and decimals come as text, since JSON numbers would round them. */
function isNumeric(values: readonly unknown[]): boolean {
  const known = values.filter((value) => value !== null);
  return (
    known.length > 0 &&
    known.every((value) => typeof value === 'number' || (typeof value === 'string' && /^-?\d+(\.\d+)?$/.test(value)))
  );
}
