import { afterAll, beforeAll, describe, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { crashRounds } from './rounds.ts';

describe('kill -9, in-process', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());

  it(
    'loses and repeats nothing',
    () =>
      crashRounds({
        database,
        transport: { type: 'in-process' },
        rounds: Number(process.env.WALTIDE_CRASH_ROUNDS ?? 20),
        seed: Number(process.env.WALTIDE_CRASH_SEED ?? Date.now() % 1_000_000),
      }),
    600_000,
  );
});
