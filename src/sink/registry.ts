import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import type { QueryResult, Sink } from './sink.ts';
import type { Exported, ExportRequest, UpkeepWatch } from './upkeep.ts';

type SinkConfig = Config['sinks'][number];

export interface QueryLimits {
  readonly rowsMax: number;
  readonly timeoutMs: number;
}

interface Kind<C> {
  readonly create: (config: C, log: Log) => Sink;
  /** Read-only SQL while no process holds the sink; null where the store has no SQL. */
  readonly queryAtRest: ((config: C, sql: string, limits: QueryLimits) => Promise<QueryResult>) | null;
  /** `live`: the sink, where this process has it open. */
  readonly exportTables:
    | ((config: C, live: Sink | null, request: ExportRequest, through: Through) => Promise<Exported>)
    | null;
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
  if (exportTables) return exportTables(config, live, request, through);
  throw new WaltideError('USAGE', `sink "${config.name}" (${config.type}) cannot be exported`, 'Export a DuckDB sink.');
}
