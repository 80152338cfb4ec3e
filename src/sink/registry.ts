import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import type { QueryResult, Sink } from './sink.ts';
import type { BackedUp, Exported, ExportRequest, Restored, RestoreRequest, UpkeepWatch } from './upkeep.ts';

type SinkConfig = Config['sinks'][number];

export interface QueryLimits {
  readonly rowsMax: number;
  readonly timeoutMs: number;
}

interface Kind<C> {
  readonly create: (config: C, log: Log) => Sink;
  /** Read-only SQL while no process holds the sink; null where the store has no SQL. */
  readonly queryAtRest: ((config: C, sql: string, limits: QueryLimits) => Promise<QueryResult>) | null;
  /** What follows is null where the store is not ours to copy. `live`: the sink, where this process has it open. */
  readonly exportTables:
    | ((config: C, live: Sink | null, request: ExportRequest, through: Through) => Promise<Exported>)
    | null;
  readonly backUp: ((config: C, live: Sink | null, to: string, watch: UpkeepWatch) => Promise<BackedUp>) | null;
  readonly restoreFile: ((config: C, request: RestoreRequest, watch: UpkeepWatch) => Promise<Restored>) | null;
}

interface Through {
  readonly log: Log;
  readonly watch: UpkeepWatch;
}

/** Every kind of sink, one line each. Loaded when one is used: a store's client costs tens of megabytes and 100 ms. */
const KINDS: { [T in SinkConfig['type']]: () => Promise<Kind<Extract<SinkConfig, { type: T }>>> } = {
  duckdb: async () => (await import('./duckdb/kind.ts')).duckdbKind,
};

export async function createSink(config: SinkConfig, log: Log): Promise<Sink> {
  return (await KINDS[config.type]()).create(config, log);
}

/** Null where this kind of sink cannot be asked while no process holds it. */
export async function querySinkAtRest(
  config: SinkConfig,
  sql: string,
  limits: QueryLimits,
): Promise<QueryResult | null> {
  return (await KINDS[config.type]()).queryAtRest?.(config, sql, limits) ?? null;
}

/** Writes tables of a sink as Parquet; see the kind's own. `live` = null opens the store, and throws SINK_LOCKED where another has it. */
export async function exportSink(
  config: SinkConfig,
  live: Sink | null,
  request: ExportRequest,
  through: Through,
): Promise<Exported> {
  const { exportTables } = await KINDS[config.type]();
  if (!exportTables) throw unable(config, 'exported');
  return exportTables(config, live, request, through);
}

/** Copies a sink's store into the file `to`, which then has it whole or is as it was. `live` as of `exportSink`. */
export async function backUpSink(
  config: SinkConfig,
  live: Sink | null,
  to: string,
  watch: UpkeepWatch,
): Promise<BackedUp> {
  const { backUp } = await KINDS[config.type]();
  if (!backUp) throw unable(config, 'backed up');
  return backUp(config, live, to, watch);
}

/** Puts a backup in the place of a sink's store, which no process may have open. */
export async function restoreSink(config: SinkConfig, request: RestoreRequest, watch: UpkeepWatch): Promise<Restored> {
  const { restoreFile } = await KINDS[config.type]();
  if (!restoreFile) throw unable(config, 'restored');
  return restoreFile(config, request, watch);
}

function unable({ name, type }: SinkConfig, what: string): WaltideError {
  return new WaltideError(
    'USAGE',
    `sink "${name}" (${type}) cannot be ${what}`,
    'Use what its own store has for that.',
  );
}
