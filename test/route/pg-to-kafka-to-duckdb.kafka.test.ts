import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';
import { waltide, writeConfig } from '../support/waltide-process.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';
import { deleteTopics } from '../transport/kafka/reader.ts';

let database: TestDatabase;
let config: Config;
let path: string;
let brokers: string[];

beforeEach(async () => {
  brokers = await ensureSharedKafka();
  database = await createDatabase();
  ({ config, path } = testPipeline(database, { transport: { type: 'kafka', brokers, topicPrefix: database.name } }));
});
afterEach(() => database.drop());

const compare = (): Promise<string[]> => withDuckdb(path, (query) => differences(database.url, query, TABLES));

describe('PostgreSQL → Kafka → DuckDB', () => {
  it('copies what is there, then streams every kind of change', async () => {
    await database.query(SCHEMA);
    await runWorkload(database.url, 1, AbortSignal.timeout(500));
    for (let seed = 2; seed < 5; seed++) {
      expect(await catchUp(config)).toEqual([]);
      expect(await compare(), `before seed ${seed}`).toEqual([]);
      await runWorkload(database.url, seed, AbortSignal.timeout(1000));
    }
  });

  it('carries a key change with unchanged TOAST from one partition to another, under REPLICA IDENTITY FULL', async () => {
    const many = { ...config, transport: { ...config.transport, partitions: 3 } } as Config;
    await database.query(SCHEMA);
    await database.query('ALTER TABLE renamed_key REPLICA IDENTITY FULL');
    await database.query(
      "INSERT INTO renamed_key SELECT 'k' || i, repeat('x', 3000) || i, 0 FROM generate_series(1, 30) i",
    );
    await catchUp(many);
    await database.query("UPDATE renamed_key SET code = code || '.5'");
    expect(await catchUp(many)).toEqual([]);
    expect(await compare()).toEqual([]);
  });

  it('ends both roles of a job that runs now and then, also when there is nothing new', async () => {
    await database.query('create table t (id int primary key); insert into t values (1), (2)');
    const { file } = writeConfig({
      source: { url: database.url, slot: database.name, publication: database.name, tables: ['public.*'] },
      transport: { type: 'kafka', brokers, topicPrefix: database.name },
      sinks: [{ name: 'a', type: 'duckdb', path: 'a.duckdb' }],
    });
    for (let round = 0; round < 2; round++) {
      for (const role of ['capture', 'apply']) {
        const { code, stderr } = await waltide(['run', '--role', role, '--until-caught-up', '--config', file]);
        expect(code, stderr).toBe(0);
      }
    }
  });

  it('says that a sink file was restored from an older backup, and goes on from its own offset', async () => {
    await database.query('create table t (id int primary key); insert into t values (1)');
    const { file, folder } = writeConfig({
      source: { url: database.url, slot: database.name, publication: database.name, tables: ['public.*'] },
      transport: { type: 'kafka', brokers, topicPrefix: database.name },
      sinks: [{ name: 'a', type: 'duckdb', path: 'a.duckdb' }],
    });
    const run = async (): Promise<string> => {
      const { code, stderr } = await waltide(['run', '--until-caught-up', '--config', file]);
      expect(code, stderr).toBe(0);
      return stderr;
    };
    const sink = join(folder, 'a.duckdb');
    await run();
    copyFileSync(sink, `${sink}.backup`);
    await database.query('insert into t values (2)');
    expect(await run()).not.toContain('older backup');
    copyFileSync(`${sink}.backup`, sink);
    expect(await run()).toContain('restored from an older backup');
    expect(await withDuckdb(sink, (query) => differences(database.url, query, ['public.t']))).toEqual([]);
  }, 300_000);

  it('leaves out a new table whose topic would be that of another one, and goes on', async () => {
    await database.query('create table clash_t (id int primary key)');
    const quick = { ...config, snapshot: { ...config.snapshot, tablesIntervalMs: 200 } };
    const running = start(quick);
    try {
      await eventually('it streams', () => running.pipeline.status().state === 'streaming');
      await database.query('create table "clash.t" (id int primary key); create table other (id int primary key)');
      await eventually('the table after it is captured', async () => {
        const [row] = await database.query('select tables::text like \'%"other"%\' as captured from waltide.slots');
        return row!.captured === true;
      });
      await database.query(
        'insert into "clash.t" values (1); insert into clash_t values (2); insert into other values (3)',
      );
      await eventually('it goes on', async () => {
        const options = { rowsMax: 1, timeoutMs: 60_000 };
        return (await running.pipeline.query('select count(*)::int from clash_t', options)).rows[0]![0] === 1;
      });
    } finally {
      await running.stop();
    }
    expect(await catchUp(quick)).toEqual([]);
    expect(
      await withDuckdb(path, (query) => differences(database.url, query, ['public.clash_t', 'public.other'])),
    ).toEqual([]);
  });

  it('copies anew into a sink whose topic was deleted', async () => {
    await database.query(SCHEMA);
    await runWorkload(database.url, 1, AbortSignal.timeout(700));
    await catchUp(config);
    await database.query("update account set note = 'changed'; delete from account where id < 100");
    await deleteTopics(brokers, [`${database.name}.public.account`]);
    await expect(catchUp(config)).rejects.toMatchObject({ code: 'TOPIC_MISSING' });
    expect(await catchUp(config, { recopy: true })).toEqual([]);
    expect(await compare()).toEqual([]);
    // And once more with capture and sink apart: the topics are longer now than the sink ever saw.
    await runWorkload(database.url, 2, AbortSignal.timeout(700));
    expect(await catchUp({ ...config, sinks: [] }, { recopy: true })).toEqual([]);
    expect(await catchUp(config, { role: 'apply' })).toEqual([]);
    expect(await compare()).toEqual([]);
  });
});
