import { Kafka, logLevel } from 'kafkajs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { parseLsn } from '../../src/event/lsn.ts';
import { Pipeline, type PipelineOptions } from '../../src/pipeline/pipeline.ts';
import { findUntil, type ReplayRequest } from '../../src/pipeline/replay.ts';
import { damage, differences, withDuckdb } from '../support/compare.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { catchUp, eventually, log, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';

/*
 * Goal and method as in replay.pg.test.ts, from topics of three partitions: the slot retains nothing here.
 */
let database: TestDatabase;
let config: Config;
let sink: MemorySink;
let brokers: string[];

beforeEach(async () => {
  brokers = await ensureSharedKafka();
  database = await createDatabase();
  await database.query(
    'create table t (id int primary key); create table u (id int primary key); create table big (id int primary key, body text)',
  );
  sink = new MemorySink('memory');
  const transport = { type: 'kafka', brokers, topicPrefix: database.name, partitions: 3 } as const;
  ({ config } = testPipeline(database, { sinks: [], transport }));
  await catchUp(config, { sinks: [sink] });
});
afterEach(() => database.drop());

const lsn = async (): Promise<bigint> =>
  parseLsn((await database.query('select pg_current_wal_lsn()::text as lsn'))[0]!.lsn as string);
const keys = (from = 0): number[] =>
  sink.events
    .slice(from)
    .flatMap(({ op, key }) => (op === 'c' ? [Number(key)] : []))
    .sort((a, b) => a - b);
const all = { sink: 'memory', tables: null };
const numbers = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i);

async function apply(goal: 'rewound' | 'caught-up', options: Partial<PipelineOptions>): Promise<void> {
  const pipeline = new Pipeline({ config, role: 'apply', log, sinks: [sink], ...options });
  await pipeline.run(goal, AbortSignal.timeout(120_000));
}

describe('replay from Kafka', () => {
  it('begins at an LSN or a time, in every partition, and ends at one', async () => {
    await database.query('insert into t select generate_series(1, 50)');
    await catchUp(config, { sinks: [sink] });
    const from = await lsn();
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const [row] = await database.query('select clock_timestamp() as now');
    await database.query('insert into t select generate_series(51, 100)');
    const until = await lsn();
    await database.query('insert into t select generate_series(101, 120)');
    await catchUp(config, { sinks: [sink] });

    let before = sink.events.length;
    await apply('rewound', { replay: { ...all, from: { time: row!.now as Date } } });
    await apply('caught-up', {});
    expect(keys(before)).toEqual(numbers(51, 120));
    before = sink.events.length;
    await apply('caught-up', {
      replay: { ...all, from: { lsn: from } },
      until: await findUntil(config, { lsn: until }),
    });
    expect(keys(before)).toEqual(numbers(51, 100));
    await apply('caught-up', {});
    expect(keys(before)).toEqual(numbers(51, 120));
  });

  it('does not end at a bound before every partition is past it', async () => {
    const from = await lsn();
    await database.query('insert into big select i, repeat(md5(i::text), 30) from generate_series(1, 30000) i');
    const until = await lsn();
    await database.query('insert into u values (1)');
    await catchUp(config, { sinks: [sink] });
    const before = sink.events.length;
    await apply('caught-up', {
      replay: { ...all, from: { lsn: from } },
      until: await findUntil(config, { lsn: until }),
    });
    expect(keys(before)).toEqual(numbers(1, 30000));
    await apply('caught-up', {});
    expect(keys(before)).toHaveLength(30001);
  });

  it('is done by a running pipeline, of one table alone', async () => {
    const from = await lsn();
    const running = start(config, { sinks: [sink] });
    try {
      await database.query(
        'insert into t select generate_series(1, 20); insert into u select generate_series(1001, 1020)',
      );
      await eventually('it came', () => keys().length === 40);
      const request: ReplayRequest = {
        sink: 'memory',
        tables: [{ schema: 'public', table: 'u' }],
        from: { lsn: from },
      };
      const before = sink.events.length;
      expect(await running.pipeline.replay(request)).toMatchObject({ tables: ['public.u'], from });
      await eventually('it came again', () => keys(before).length === 20);
      expect(keys(before)).toEqual(numbers(1001, 1020));
      await database.query('insert into t values (21)');
      await eventually('it streams on', () => keys(before).includes(21));
    } finally {
      await running.stop();
    }
  });

  it('finds a table that was renamed, whose topic keeps its first name', async () => {
    const from = await lsn();
    await database.query('insert into t values (1)');
    await database.query('alter table t rename to renamed');
    await database.query('insert into renamed values (2)');
    const quick = { ...config, snapshot: { ...config.snapshot, tablesIntervalMs: 200 } };
    const running = start(quick, { sinks: [sink] });
    await eventually('its name is recorded', async () => {
      const [row] = await database.query("select tables::text like '%renamed%' as known from waltide.slots");
      return row!.known === true && keys().length === 2;
    });
    await running.stop();
    const before = sink.events.length;
    const tables = [{ schema: 'public', table: 'renamed' }];
    await apply('rewound', { replay: { sink: 'memory', tables, from: { lsn: from } } });
    await apply('caught-up', {});
    expect(keys(before)).toEqual([1, 2]);
  });

  it('says which partitions no longer hold what was asked for', async () => {
    const from = await lsn();
    await database.query('insert into t select generate_series(1, 50)');
    await catchUp(config, { sinks: [sink] });
    const admin = new Kafka({ brokers, logLevel: logLevel.NOTHING }).admin();
    await admin.connect();
    const topic = `${database.name}.public.t`;
    await admin.fetchTopicMetadata({ topics: [topic] });
    await admin.fetchTopicOffsets(topic);
    await admin.deleteTopicRecords({ topic, partitions: [{ partition: 1, offset: '-1' }] });
    await admin.disconnect();
    const saved = sink.events.length;
    await expect(apply('rewound', { replay: { ...all, from: { lsn: from } } })).rejects.toMatchObject({
      code: 'REPLAY',
      message: expect.stringContaining(`${topic}:1`),
      help: expect.stringContaining('waltide snapshot start'),
    });
    await apply('caught-up', {});
    expect(sink.events.length).toBe(saved);
  });
});

it.each(['table', 'transaction'] as const)(
  'brings back rows of a DuckDB file that were damaged, of one table and of all (consistency: %s)',
  async (consistency) => {
    const transport = {
      type: 'kafka',
      brokers,
      topicPrefix: `${database.name}.${consistency}`,
      partitions: 3,
      transactions: { enabled: true },
    } as const;
    const { config: base, path } = testPipeline(database, { transport }, { slot: `${database.name}_2` });
    const duckdb = {
      ...base,
      sinks: base.sinks.map((one) => ({ ...one, consistency, batch: { ...one.batch, rowsMax: 20 } })),
    };
    const compare = (): Promise<string[]> =>
      withDuckdb(path, (run) => differences(database.url, run, ['public.t', 'public.u', 'public.later']));
    await catchUp(duckdb);
    const from = await lsn();
    for (let i = 0; i < 40; i++)
      await database.query(
        `begin; insert into t select generate_series(${i * 10}, ${i * 10 + 9}); update t set id = id + 10000 where id = ${i * 10 + 3};
         delete from t where id = ${i * 10 - 6}; insert into u values (${i}); commit`,
      );
    await database.query('create table later (id int primary key, v text); insert into later values (1, null)');
    await catchUp(duckdb);
    await database.query("update later set v = 'x'; alter table t add n int; update t set n = 1 where id < 20");
    await catchUp(duckdb);
    expect(await compare()).toEqual([]);
    for (const tables of [[{ schema: 'public', table: 'u' }], null]) {
      await damage(path, tables ? 'delete from u' : 'delete from t where id % 2 = 0');
      expect(await compare()).not.toEqual([]);
      const replay = { sink: 'analytics', tables, from: { lsn: from } };
      await new Pipeline({ config: duckdb, role: 'apply', log, replay }).run('rewound', AbortSignal.timeout(120_000));
      await catchUp(duckdb);
      // A table whose columns have changed since is copied again, beside the stream.
      expect(await catchUp(duckdb)).toEqual([]);
      expect(await compare()).toEqual([]);
    }
  },
  300_000,
);
