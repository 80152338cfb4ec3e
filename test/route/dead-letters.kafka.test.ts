import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { rereadLetters } from '../../src/dead-letter/reread.ts';
import { listLetters } from '../../src/dead-letter/table.ts';
import { withSession } from '../../src/postgres/session.ts';
import { withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';
import { readTopic } from '../transport/kafka/reader.ts';

let database: TestDatabase;
let config: Config;
let path: string;
let brokers: string[];

beforeEach(async () => {
  brokers = await ensureSharedKafka();
  database = await createDatabase();
  await database.query('create table t (id int primary key, n numeric(6,2), v text)');
  const transport = { type: 'kafka', brokers, topicPrefix: database.name } as const;
  ({ config, path } = testPipeline(database, {
    transport: { ...transport, maxRecordBytes: 100_000, oversize: 'dead-letter' },
  }));
  for (const sink of config.sinks) sink.onUnrepresentable = 'dead-letter';
});
afterEach(() => database.drop());

const letters = () =>
  withSession(config.source, 'test', (client) => listLetters(client, config.source.slot, {}, { max: 100 }));

it('keeps a record that is too large for Kafka whole, and brings its row once the limit was raised', {
  timeout: 300_000,
}, async () => {
  await catchUp(config);
  await database.query("insert into t values (1, 1, 'a'), (2, 2, repeat('x', 200000)), (3, 3, 'c')");
  expect(await catchUp(config)).toEqual([]);
  const held = (): Promise<unknown> =>
    withDuckdb(path, (query) => query('select id, length(v)::int from t order by id'));
  expect(await held()).toEqual([
    [1, 1],
    [3, 1],
  ]);
  const [letter] = await letters();
  expect(letter).toMatchObject({
    sink: '*',
    row: '["2"]',
    op: 'c',
    after: { id: '2', n: '2.00', v: 'x'.repeat(200_000) },
    code: 'RECORD_TOO_LARGE',
    state: 'open',
  });
  expect(await readTopic(brokers, `${database.name}.dead-letter`)).toMatchObject([
    { value: { table: 'public.t', key: '{"id":2}', code: 'RECORD_TOO_LARGE' } },
  ]);

  const raised = { ...config, transport: { ...config.transport, maxRecordBytes: 900_000 } } as Config;
  await withSession(config.source, 'test', (client) => rereadLetters(client, config.source.slot, [letter!]));
  expect(await catchUp(raised)).toEqual([]);
  expect(await held()).toEqual([
    [1, 1],
    [2, 200_000],
    [3, 1],
  ]);
  expect(await letters()).toMatchObject([{ state: 'retried' }]);
});

it('tells of what a sink refused in the topic, too, from the apply side alone', { timeout: 300_000 }, async () => {
  const capture = start(config, { role: 'capture' });
  const apply = start(config, { role: 'apply' });
  await eventually('both stream', () => apply.pipeline.status().state === 'streaming');
  await database.query("insert into t values (1, 1, 'a'), (2, 'NaN', 'b'), (3, 'NaN', 'c')");
  await eventually('the letters', async () => (await letters()).length === 2);
  await eventually('the status', () => apply.pipeline.status().sinks[0]?.deadLetters.open === 2);
  await apply.stop();
  await capture.stop();
  const written = await readTopic(brokers, `${database.name}.dead-letter`);
  expect(written.map(({ value }) => value)).toMatchObject([
    { sink: 'analytics', table: 'public.t', op: 'c', row: ['2'], after: { id: '2', n: 'NaN', v: 'b' } },
    { sink: 'analytics', row: ['3'] },
  ]);
});
