import { TYPES, TYPES_SQL } from '../support/every-type.ts';
import { everyValue } from '../support/every-value.ts';
import { testPipeline } from '../support/pipeline.ts';
import { createDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';

everyValue(
  'every value of every type, PostgreSQL → Kafka → DuckDB',
  async () => {
    const brokers = await ensureSharedKafka();
    const database = await createDatabase();
    return {
      database,
      pipeline: testPipeline(database, { transport: { type: 'kafka', brokers, topicPrefix: database.name } }),
    };
  },
  TYPES_SQL,
  TYPES,
);
