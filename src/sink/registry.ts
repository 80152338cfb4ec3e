import type { Config } from '../config/schema.ts';
import type { Log } from '../log.ts';
import { queryAtRest } from './duckdb/at-rest.ts';
import { createDuckdbSink } from './duckdb/duckdb-sink.ts';
import type { QueryResult, Sink } from './sink.ts';

type SinkConfig = Config['sinks'][number];

interface Kind<C> {
  readonly create: (config: C, log: Log) => Sink;
  /** Read-only SQL while no process holds the sink; null where the store has no SQL. */
  readonly queryAtRest: ((config: C, sql: string, limits: QueryLimits) => Promise<QueryResult>) | null;
}

export interface QueryLimits {
  readonly rowsMax: number;
  readonly timeoutMs: number;
}

/** Every kind of sink, one line each. */
const KINDS: { [T in SinkConfig['type']]: Kind<Extract<SinkConfig, { type: T }>> } = {
  duckdb: { create: createDuckdbSink, queryAtRest },
};

export function createSink(config: SinkConfig, log: Log): Sink {
  return KINDS[config.type].create(config, log);
}

/** Null where this kind of sink cannot be asked while no process holds it. */
export function querySinkAtRest(config: SinkConfig, sql: string, limits: QueryLimits): Promise<QueryResult> | null {
  return KINDS[config.type].queryAtRest?.(config, sql, limits) ?? null;
}
