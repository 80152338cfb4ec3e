import { queryAtRest } from './at-rest.ts';
import { backUp } from './backup.ts';
import { createDuckdbSink } from './duckdb-sink.ts';
import { exportTables } from './export.ts';
import { restoreFile } from './restore.ts';

/** What the registry needs of this folder. */
export const duckdbKind = { create: createDuckdbSink, queryAtRest, exportTables, backUp, restoreFile };
