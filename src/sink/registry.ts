import type { Config } from '../config/schema.ts';
import type { Log } from '../log.ts';
import { createDuckdbSink } from './duckdb/duckdb-sink.ts';
import type { Sink } from './sink.ts';

type SinkConfig = Config['sinks'][number];

/** Every kind of sink, one line each. */
const FACTORIES: { [T in SinkConfig['type']]: (config: Extract<SinkConfig, { type: T }>, log: Log) => Sink } = {
  duckdb: createDuckdbSink,
};

export function createSink(config: SinkConfig, log: Log): Sink {
  return FACTORIES[config.type](config, log);
}
