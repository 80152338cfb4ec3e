import { join } from 'node:path';
import { Kafka, logLevel } from 'kafkajs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { cli, makeProject } from '../cli/support.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
let brokers: string[];

beforeEach(async () => {
  brokers = await ensureSharedKafka();
  database = await createDatabase();
  await database.query(`create table t (id int primary key, v text); insert into t select i, 'old' from generate_series(1, 500) i;
    create table u (id int primary key); insert into u select generate_series(1, 50)`);
  project = await makeProject({
    source: { url: database.url, slot: database.name, publication: database.name, tables: ['public.*'] },
    transport: { type: 'kafka', brokers, topicPrefix: database.name, partitions: 3 },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
  });
});
afterEach(async () => {
  await database.drop();
  await project.remove();
});

const run = (...argv: string[]) => cli(project.dir, ...argv);
const path = (): string => join(project.dir, 'a.duckdb');
const equal = (): Promise<string[]> =>
  withDuckdb(path(), (query) => differences(database.url, query, ['public.t', 'public.u']));
async function catchUp(): Promise<void> {
  const { code, stderr } = await run('run', '--until-caught-up');
  expect(code, stderr).toBe(0);
}
const write = () =>
  database.query(
    `update t set v = v || '!' where id % 2 = 0; delete from t where id % 5 = 0; insert into u select max(id) + 1 from u`,
  );

/** What retention does, in no time. */
async function empty(topic: string): Promise<void> {
  const admin = new Kafka({ brokers, logLevel: logLevel.NOTHING }).admin();
  await admin.connect();
  const partitions = (await admin.fetchTopicOffsets(topic)).map(({ partition, offset }) => ({ partition, offset }));
  await admin.deleteTopicRecords({ topic, partitions });
  await admin.disconnect();
}

test('a restored sink goes on from the topics; where they hold no longer what it lacks, it is refused, and refilled on request', async () => {
  await catchUp();
  expect((await run('backup', '--to', 'saved.duckdb')).code).toBe(0);
  await write();
  await catchUp();
  const restored = await run('restore', '--from', 'saved.duckdb');
  expect(restored).toMatchObject({
    code: 0,
    stderr: expect.stringMatching(/goes on from .*, from the log, which the start looks at/),
  });
  expect(await withDuckdb(path(), (query) => query(`select count(*)::int from t where v = 'old'`))).toEqual([[500]]);
  await catchUp();
  expect(await equal()).toEqual([]);

  expect((await run('restore', '--from', 'saved.duckdb')).code).toBe(0);
  await empty(`${database.name}.public.t`);
  const refused = await run('run', '--until-caught-up');
  expect(refused).toMatchObject({ code: 1, stderr: expect.stringMatching(/retention|removed|no longer/) });
  expect((await run('restore', '--from', 'saved.duckdb', '--refill')).code).toBe(0);
  await write();
  await catchUp();
  expect(await equal()).toEqual([]);
}, 300_000);
