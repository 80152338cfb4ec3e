import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Writer } from '../../src/write/writer.ts';
import { eventually, log, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';

/** Far beyond what it takes. */
const PATIENCE_MS = 60_000;

describe('reading what was written, through Kafka', () => {
  let database: TestDatabase;
  beforeEach(async () => {
    database = await createDatabase();
  });
  afterEach(() => database.drop());

  it.each(['table', 'transaction'] as const)(
    'a strong write is in the sink when the applying process answers (consistency %s)',
    async (consistency) => {
      const brokers = await ensureSharedKafka();
      const transport = {
        ...{ type: 'kafka' as const, brokers, topicPrefix: database.name },
        ...(consistency === 'transaction' && { transactions: { enabled: true } }),
      };
      const { config } = testPipeline(database, { transport });
      config.sinks[0]!.consistency = consistency;
      config.sinks[0]!.consistency = consistency;
      await database.query('create table item (id int primary key); create table other (id int primary key)');
      const capture = start(config, { role: 'capture' });
      const apply = start(config, { role: 'apply' });
      await eventually('applying', () => apply.pipeline.status().ready, PATIENCE_MS);
      const writer = new Writer({ config, log, sinks: apply.pipeline });
      for (let id = 1; id <= 5; id++) {
        const request = {
          table: id % 2 ? 'item' : 'other',
          type: 'create',
          data: { id },
          consistency: 'strong',
        } as const;
        const answer = await writer.write({ ...request, timeoutMs: PATIENCE_MS });
        expect(answer).toMatchObject({ state: 'applied' });
        const count = 'select (select count(*) from item)::int + (select count(*) from other)::int';
        const { rows } = await apply.pipeline.query(count, { rowsMax: 1, timeoutMs: 10_000, minLsn: answer.lsn! });
        expect(rows).toEqual([[id]]);
      }
      const unable = new Writer({ config, log, sinks: capture.pipeline });
      const request = { table: 'item', type: 'create', data: { id: 9 }, consistency: 'strong' } as const;
      await expect(unable.write(request)).rejects.toMatchObject({ code: 'NOT_RUNNING' });
      await unable.close();
      await writer.close();
      await apply.stop();
      await capture.stop();
    },
    180_000,
  );
});
