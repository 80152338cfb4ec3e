import { afterAll } from 'vitest';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { ARRAYS } from '../support/every-array.ts';
import { TYPES, TYPES_SQL, VECTORS } from '../support/every-type.ts';
import { everyValue } from '../support/every-value.ts';
import { pgvectorSettings } from '../support/pgvector.ts';
import { testPipeline } from '../support/pipeline.ts';
import { createDatabase, startPostgres } from '../support/postgres.ts';
import { OLDER_VERSIONS, type OlderVersion } from '../support/postgres-package.ts';
import { ensureSharedPostgres } from '../support/shared-postgres.ts';

everyValue(
  'every value of every type, PostgreSQL → DuckDB in-process',
  async () => {
    const database = await createDatabase();
    return { database, pipeline: testPipeline(database) };
  },
  TYPES_SQL,
  TYPES,
);

everyValue(
  'every value in arrays of every type, PostgreSQL → DuckDB in-process',
  async () => {
    const database = await createDatabase();
    return { database, pipeline: testPipeline(database) };
  },
  TYPES_SQL,
  ARRAYS,
);

const NEW_IN_17 = ['interval: infinity', 'interval: -infinity', 'interval[]: {"1 day","-00:00:01",infinity}'];
/** What the server of a version does not know yet, in the order of TYPES. */
const UNKNOWN: Record<OlderVersion, readonly string[]> = {
  17: [],
  16: NEW_IN_17,
  15: NEW_IN_17,
  14: [
    'numeric(5,-2): 1234567',
    'numeric(3,5): 0.00123',
    'interval: infinity',
    'interval: -infinity',
    'interval: 2562047788:00:54.775807',
    'interval[]: {"1 day","-00:00:01",infinity}',
  ],
};

for (const version of OLDER_VERSIONS)
  everyValue(
    `every value that PostgreSQL ${version} knows, → DuckDB in-process`,
    async () => {
      const database = await createDatabase(await ensureSharedPostgres(version));
      return { database, pipeline: testPipeline(database) };
    },
    TYPES_SQL,
    TYPES,
    UNKNOWN[version],
  );

const vector = await pgvectorSettings();
let server: EmbeddedPostgres | null = null;
afterAll(() => server?.stop());

if (vector)
  everyValue(
    "every value of pgvector's types, PostgreSQL → DuckDB in-process",
    async () => {
      server = await startPostgres(vector);
      const database = await createDatabase(server.url);
      return { database, pipeline: testPipeline(database) };
    },
    'create extension vector',
    VECTORS,
  );
