import { describe, expect, it } from 'vitest';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, testPipeline } from '../support/pipeline.ts';
import { createDatabase } from '../support/postgres.ts';
import { OLDER_VERSIONS } from '../support/postgres-package.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';
import { ensureSharedPostgres } from '../support/shared-postgres.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

describe.each(OLDER_VERSIONS)('PostgreSQL %i → Kafka → DuckDB', (version) => {
  it('copies what is there, then streams every kind of change', async () => {
    const brokers = await ensureSharedKafka();
    const database = await createDatabase(await ensureSharedPostgres(version));
    try {
      const { config, path } = testPipeline(database, {
        transport: { type: 'kafka', brokers, topicPrefix: database.name },
      });
      await database.query(SCHEMA);
      await runWorkload(database.url, 5, AbortSignal.timeout(300));
      expect(await catchUp(config)).toEqual([]);
      await runWorkload(database.url, 6, AbortSignal.timeout(500));
      expect(await catchUp(config)).toEqual([]);
      expect(await withDuckdb(path, (run) => differences(database.url, run, TABLES))).toEqual([]);
    } finally {
      await database.drop();
    }
  });
});
