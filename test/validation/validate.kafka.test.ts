import { afterEach, beforeEach, expect, it } from 'vitest';
import type { ValidationReport } from '../../src/validation/report.ts';
import { damage, differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

it.each(['table', 'transaction'] as const)(
  'finds and repairs through Kafka what was damaged, and nothing that is on its way (consistency: %s)',
  {
    timeout: 300_000,
  },
  async (consistency) => {
    const brokers = await ensureSharedKafka();
    const transactions = { enabled: consistency === 'transaction' };
    const transport = { type: 'kafka', brokers, topicPrefix: database.name, transactions } as const;
    const { config, path } = testPipeline(database, { transport });
    for (const sink of config.sinks) sink.consistency = consistency;
    await database.query('create table t (id int primary key, v text, n int)');
    await database.query("insert into t select i, 'v' || i, 0 from generate_series(1, 5000) i");
    await catchUp(config);
    await damage(
      path,
      'delete from t where id = 7',
      "update t set v = 'x' where id = 8",
      'insert into t values (9000, null, 0)',
    );
    const running = start(config);
    const brief = ({ tables: [t] }: ValidationReport) => [
      t!.missing,
      t!.extra,
      t!.different,
      t!.unsettled,
      t!.repaired,
    ];
    const writing = { on: true };
    const writes = (async () => {
      while (writing.on) await database.query('update t set n = n + 1 where id % 10 = 0');
    })();
    writes.catch(() => {});
    try {
      await eventually('it streams', () => running.pipeline.status().state === 'streaming');
      const signal = AbortSignal.timeout(120_000);
      expect(brief(await running.pipeline.validate({}, { signal }))).toEqual([1, 1, 1, 0, 0]);
      expect(brief(await running.pipeline.validate({ repair: true }, { signal }))).toEqual([0, 0, 0, 0, 3]);
      expect(brief(await running.pipeline.validate({}, { signal }))).toEqual([0, 0, 0, 0, 0]);
      writing.on = false;
      await writes;
    } finally {
      writing.on = false;
      await running.stop();
    }
    await catchUp(config);
    expect(await withDuckdb(path, (query) => differences(database.url, query, ['public.t']))).toEqual([]);
  },
);
