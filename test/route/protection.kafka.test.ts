import { afterEach, beforeEach, expect, it } from 'vitest';
import { differences, withDuckdb } from '../support/compare.ts';
import { MASK_KEY, WORKLOAD_MASKED, WORKLOAD_RULES } from '../support/masks.ts';
import { catchUp, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

it.each(['table', 'transaction'] as const)(
  'what is masked and filtered is the mask of the source through Kafka (consistency: %s)',
  async (consistency) => {
    const brokers = await ensureSharedKafka();
    const transactions = { enabled: consistency === 'transaction' };
    const transport = { type: 'kafka', brokers, topicPrefix: database.name, transactions } as const;
    const transforms = [{ tables: ['public.f'], filter: 'n > 3', drop: ['m'] }];
    const { config, path } = testPipeline(database, { transport }, { ...WORKLOAD_RULES, transforms });
    for (const sink of config.sinks) sink.consistency = consistency;
    expect(config.source.protect?.key).toBe(MASK_KEY);
    await database.query(SCHEMA);
    await database.query('create table f (id int primary key, n int, m text); alter table f replica identity full');
    await database.query("insert into f select i, i % 8, 'm' from generate_series(1, 100) i");
    for (let seed = 1; seed < 4; seed++) {
      await runWorkload(database.url, seed, AbortSignal.timeout(1000));
      await database.query(
        'update f set n = (n + 3) % 8; delete from f where id % 13 = 0; update f set id = id + 1000 where id % 11 = 0',
      );
      expect(await catchUp(config)).toEqual([]);
      const found = await withDuckdb(path, (query) => differences(database.url, query, TABLES, WORKLOAD_MASKED));
      expect(found, `seed ${seed}`).toEqual([]);
      const passed = await database.query('select id, n from f where n > 3 order by id');
      const target = await withDuckdb(path, (query) => query('select id, n from f order by id'));
      expect(target).toEqual(passed.map(({ id, n }) => [id, n]));
    }
  },
  180_000,
);
