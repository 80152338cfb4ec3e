import { expect, it, onTestFinished } from 'vitest';
import { eventually, start, testPipeline } from '../support/pipeline.ts';
import { plant, write } from '../support/planted.ts';
import { createDatabase } from '../support/postgres.ts';

const ROWS = 60_000;
const PLANTED = 1000;

/** bench/validate-planted.ts does the same with a million rows. */
it('finds every planted difference under constant writes and nothing else, then repairs them', {
  timeout: 300_000,
}, async () => {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  const test = testPipeline(database);
  const { expected, isPlanted } = await plant(database, test, ROWS, PLANTED);
  const running = start(test.config);
  onTestFinished(() => running.stop());
  await eventually('streaming', () => running.pipeline.status().state === 'streaming');
  const writer = write(database.url, ROWS, isPlanted);
  try {
    const signal = AbortSignal.timeout(200_000);
    const found = await running.pipeline.validate({}, { signal });
    expect(writer.written()).toBeGreaterThan(0);
    expect(new Map(found.tables[0]!.differences.map(({ key, kind }) => [key[0], kind]))).toEqual(expected);
    expect(found).toMatchObject({ ok: false, tables: [{ truncated: false }] });
    const repaired = await running.pipeline.validate({ repair: true }, { signal });
    expect(repaired.tables[0]).toMatchObject({ missing: 0, extra: 0, different: 0, repaired: PLANTED, score: 100 });
    const again = await running.pipeline.validate({}, { signal });
    expect(again.tables[0]).toMatchObject({ missing: 0, extra: 0, different: 0 });
    expect(again.ok).toBe(true);
  } finally {
    await writer.stop();
  }
});
