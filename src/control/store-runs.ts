import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import type { Run } from '../postgres/tracked.ts';
import { backUpSink, exportSink } from '../sink/registry.ts';
import type { Sink } from '../sink/sink.ts';
import type { BackedUp, Exported, ExportRequest, UpkeepWatch } from '../sink/upkeep.ts';

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
export const backupRunType = (sink: string): string => `backup:${sink}`;

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

/** A backup as the work of a run. */
export async function runBackup(
  { config, pipeline }: StoreDeps,
  sink: string,
  to: string,
  run: Run,
): Promise<BackedUp> {
  const done = await backUpSink(sinkConfig(config, sink), heldSink(pipeline, sink), to, watchOf(run));
  const { path, bytes, lsn, tables } = done;
  const records = tables.reduce((sum, { rows }) => sum + rows, 0);
  run.progress({ records, latest: lsn, metadata: { path, lsn, bytes, tables: tables.length } });
  return done;
}

/** `analytics-2026-11-27T033205.123Z.duckdb`: by name in the order of time. */
export function backupName(sink: string, at: Date): string {
  return `${sink}-${at.toISOString().replaceAll(':', '')}.duckdb`;
}

/** A backup under a name of its own; of those of this sink in the directory, the `keep` newest stay. */
export async function backupInto(
  deps: StoreDeps,
  sink: string,
  { directory, keep }: { readonly directory: string; readonly keep: number },
  run: Run,
): Promise<void> {
  await runBackup(deps, sink, join(directory, backupName(sink, new Date())), run);
  const ours = (await readdir(directory)).filter(
    (name) => name.startsWith(`${sink}-`) && BACKUP_TIME.test(name.slice(sink.length + 1)),
  );
  for (const name of ours.sort().reverse().slice(keep)) await rm(join(directory, name), { force: true });
}

const BACKUP_TIME = /^\d{4}-\d\d-\d\dT\d{6}\.\d{3}Z\.duckdb$/;

export function watchOf(run: Run): UpkeepWatch {
  return { signal: run.signal, note: (rows) => run.progress({ records: rows }) };
}
