import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import { exportThroughProcess } from '../../api/control-client.ts';
import { toJson } from '../../api/json.ts';
import { PARQUET_COMPRESSIONS } from '../../config/schema/exports.ts';
import { type ExportWish, exportRequest, sinkConfig } from '../../control/store-runs.ts';
import { exportSink } from '../../sink/registry.ts';
import type { ParquetCompression } from '../../sink/upkeep.ts';
import { positiveInteger } from '../arguments.ts';
import { chooseSink } from '../choose-sink.ts';
import type { CliContext, Loaded } from '../context.ts';
import { followRun } from '../follow-run.ts';
import { formatBytes, formatCount } from '../output.ts';
import { sinkHolder } from '../sink-holder.ts';

interface Options {
  readonly sink?: string;
  readonly to: string;
  readonly partitionBy?: string;
  readonly compression?: ParquetCompression;
  readonly rowGroupSize?: number;
  readonly where?: string;
  readonly keep?: number;
}

/** `waltide export`: tables of a sink as Parquet, through the process that holds it, or from its file while none does. */
export function exportCommand(context: CliContext): Command {
  return new Command('export')
    .description(
      'Write tables of a sink as Parquet files, all as of one position: beside the running process, or while none runs.',
    )
    .argument('[table...]', 'schema.table, or a table of schema public; all that the sink holds when left out')
    .option('--sink <name>', 'which sink; needed where there are several')
    .requiredOption('--to <dir>', 'a directory for exports of this sink alone; readers use its link `latest`')
    .option('--partition-by <columns>', 'separated by commas: their values make directories, col=value')
    .addOption(
      new Option('--compression <kind>', 'default: exports.compression (zstd)').choices([...PARQUET_COMPRESSIONS]),
    )
    .option('--row-group-size <rows>', 'most rows of a row group; default: exports.rowGroupSize', positiveInteger)
    .option('--where <condition>', "only rows that meet it, in the sink's SQL")
    .option('--keep <n>', 'how many exports stay in the directory; default: exports.keep (2)', positiveInteger)
    .addHelpText(
      'after',
      `
An export appears whole or not at all. See docs/recovery.md.

Examples:
  waltide export --to /srv/exports/analytics
  waltide export orders items --to ./exports --partition-by region --where "created_at >= '2026-01-01'"`,
    )
    .action(async (tables: string[], options: Options, command: Command) => {
      const loaded = await context.load(command);
      context.drains = true;
      const sink = chooseSink(loaded.config, options.sink);
      report(context, await work(context, loaded, sink, wishOf(tables, options, context.io.cwd)), loaded.json);
    });
}

function wishOf(tables: readonly string[], options: Options, cwd: string): ExportWish {
  const { compression, rowGroupSize, where, keep } = options;
  const partitionBy = options.partitionBy?.split(',').map((column) => column.trim());
  return {
    to: resolve(cwd, options.to),
    ...(tables.length > 0 && { tables }),
    ...(partitionBy && { partitionBy }),
    ...(compression && { compression }),
    ...(rowGroupSize && { rowGroupSize }),
    ...(where && { where }),
    ...(keep && { keep }),
  };
}

interface Done {
  readonly path: string;
  readonly rows: number;
  readonly bytes: number;
  readonly tables: number;
  readonly lsn: string;
}

async function work(context: CliContext, { config, log }: Loaded, sink: string, wish: ExportWish): Promise<Done> {
  const holder = await sinkHolder(config, sink);
  if (holder) {
    const id = await exportThroughProcess(holder, sink, wish);
    const { records, metadata } = await followRun(config, holder, id, context.signal);
    const { path, bytes, lsn, tables } = metadata as unknown as Omit<Done, 'rows'>;
    return { path, bytes, lsn, tables, rows: records };
  }
  const { path, manifest } = await exportSink(sinkConfig(config, sink), null, exportRequest(config, wish), {
    log,
    watch: { signal: context.signal, note: () => {} },
  });
  const { rows, bytes, lsn } = manifest;
  return { path, rows, bytes, lsn, tables: manifest.tables.length };
}

function report(context: CliContext, done: Done, json: boolean): void {
  const { path, rows, bytes, tables, lsn } = done;
  context.print(json ? toJson({ ok: true, ...done }, 2) : path);
  if (!json) context.note(`${tables} tables, ${formatCount(rows)} rows, ${formatBytes(bytes)}, as of ${lsn}`);
}
