import { afterAll } from 'vitest';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { TYPES, TYPES_SQL, VECTORS } from '../support/every-type.ts';
import { everyValue } from '../support/every-value.ts';
import { pgvectorSettings } from '../support/pgvector.ts';
import { testPipeline } from '../support/pipeline.ts';
import { createDatabase, startPostgres } from '../support/postgres.ts';

everyValue(
  'every value of every type, PostgreSQL → DuckDB in-process',
  async () => {
    const database = await createDatabase();
    return { database, pipeline: testPipeline(database) };
  },
  TYPES_SQL,
  TYPES,
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
