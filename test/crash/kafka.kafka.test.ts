import { afterAll, beforeAll, describe, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';
import { crashRounds } from './rounds.ts';

describe('kill -9, through Kafka', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());

  it('loses and repeats nothing', async () => {
    const brokers = await ensureSharedKafka();
    await crashRounds({
      database,
      transport: { type: 'kafka', brokers, topicPrefix: database.name },
      rounds: Number(process.env.WALTIDE_CRASH_ROUNDS ?? 20),
      seed: Number(process.env.WALTIDE_CRASH_SEED ?? Date.now() % 1_000_000),
    });
  }, 600_000);
});
