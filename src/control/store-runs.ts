import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import type { Run } from '../postgres/tracked.ts';
import { exportSink } from '../sink/registry.ts';
import type { Sink } from '../sink/sink.ts';
import type { Exported, ExportRequest, UpkeepWatch } from '../sink/upkeep.ts';

/** The process that holds the sinks. */
export interface HoldsSinks {
  sink(name: string): Sink | null;
}

/** What somebody asks of an export; what is left out is as the configuration says. */
export interface ExportWish extends Partial<ExportRequest> {
  readonly to: string;
}

export interface StoreDeps {
  readonly config: Config;
  readonly log: Log;
  readonly pipeline: HoldsSinks;
}

/** Two of one sink do not run at once. */
export const exportRunType = (sink: string): string => `export:${sink}`;

export function exportRequest({ exports }: Config, wish: ExportWish): ExportRequest {
  const { to, tables = null, partitionBy = [], where = null } = wish;
  const { compression = exports.compression, rowGroupSize = exports.rowGroupSize, keep = exports.keep } = wish;
  return { to, tables, partitionBy, where, compression, rowGroupSize, keep };
}

export function sinkConfig({ sinks }: Config, name: string): Config['sinks'][number] {
  const found = sinks.find((sink) => sink.name === name);
  if (found) return found;
  const names = sinks.map((sink) => sink.name).join(', ') || 'none';
  throw new WaltideError('NOT_FOUND', `there is no sink "${name}" in the configuration`, `There are: ${names}.`);
}

/** The sink, open in this process. */
export function heldSink(pipeline: HoldsSinks, name: string): Sink {
  const sink = pipeline.sink(name);
  if (sink) return sink;
  throw new WaltideError('SINK', `sink "${name}" is not open in this process`, 'Try again once it is.');
}

/** An export as the work of a run. */
export async function runExport(deps: StoreDeps, sink: string, wish: ExportWish, run: Run): Promise<Exported> {
  const { config, log, pipeline } = deps;
  const request = exportRequest(config, wish);
  const exported = await exportSink(sinkConfig(config, sink), heldSink(pipeline, sink), request, {
    log,
    watch: watchOf(run),
  });
  const { rows, bytes, lsn, tables } = exported.manifest;
  run.progress({ records: rows, latest: lsn, metadata: { path: exported.path, lsn, bytes, tables: tables.length } });
  return exported;
}

export function watchOf(run: Run): UpkeepWatch {
  return { signal: run.signal, note: (rows) => run.progress({ records: rows }) };
}
