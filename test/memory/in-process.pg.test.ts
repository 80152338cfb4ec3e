import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { withDuckdb } from '../support/compare.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { writeConfig } from '../support/waltide-process.ts';
import { BIG_TABLE, largeTransaction, peakRun } from './peak.ts';

describe('memory, in-process', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());

  it('stays under 400 MB while one transaction of 2 million rows passes', { timeout: 300_000 }, async () => {
    await database.query(BIG_TABLE);
    const { folder, file } = writeConfig({
      source: { url: database.url, slot: database.name, publication: database.name, tables: ['public.big'] },
      sinks: [{ name: 'a', type: 'duckdb', path: 'a.duckdb' }],
    });
    expect(await peakRun(['setup', '--config', file])).toMatchObject({ code: 0 });
    await largeTransaction(database);
    const { code, stderr, peakMegabytes } = await peakRun(['run', '--until-caught-up', '--config', file]);
    expect(code, stderr).toBe(0);
    const counted = await withDuckdb(join(folder, 'a.duckdb'), (query) =>
      query('select count(*)::int, sum(id)::bigint from big'),
    );
    expect(counted).toEqual([[2_000_000, 2_000_001_000_000n]]);
    console.info(`peak RSS: ${peakMegabytes.toFixed(0)} MB`);
    expect(peakMegabytes).toBeLessThan(400);
  });
});
