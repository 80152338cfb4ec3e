import { queryAtRest } from './at-rest.ts';
import { createDuckdbSink } from './duckdb-sink.ts';
import { exportTables } from './export.ts';

/** What the registry needs of this folder. */
export const duckdbKind = { create: createDuckdbSink, queryAtRest, exportTables };
