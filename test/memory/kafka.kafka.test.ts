import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { withDuckdb } from '../support/compare.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';
import { writeConfig } from '../support/waltide-process.ts';
import { BIG_TABLE, largeTransaction, peakRun } from './peak.ts';

describe('memory, through Kafka', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());

  it('stays under 400 MB in each role while one transaction of 2 million rows passes', {
    timeout: 400_000,
  }, async () => {
    const brokers = await ensureSharedKafka();
    await database.query(BIG_TABLE);
    const { folder, file } = writeConfig({
      source: { url: database.url, slot: database.name, publication: database.name, tables: ['public.big'] },
      transport: { type: 'kafka', brokers, topicPrefix: database.name },
      sinks: [{ name: 'a', type: 'duckdb', path: 'a.duckdb' }],
    });
    expect(await peakRun(['setup', '--config', file])).toMatchObject({ code: 0 });
    await largeTransaction(database);
    for (const role of ['capture', 'apply']) {
      const { code, stderr, peakMegabytes } = await peakRun([
        'run',
        '--role',
        role,
        '--until-caught-up',
        '--config',
        file,
      ]);
      expect(code, stderr).toBe(0);
      console.info(`peak RSS of ${role}: ${peakMegabytes.toFixed(0)} MB`);
      expect(peakMegabytes, role).toBeLessThan(400);
    }
    const counted = await withDuckdb(join(folder, 'a.duckdb'), (query) =>
      query('select count(*)::int, sum(id)::bigint from big'),
    );
    expect(counted).toEqual([[2_000_000, 2_000_001_000_000n]]);
  });
});
