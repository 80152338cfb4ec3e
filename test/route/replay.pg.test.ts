import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { formatLsn, parseLsn } from '../../src/event/lsn.ts';
import { Pipeline, type PipelineOptions } from '../../src/pipeline/pipeline.ts';
import { findUntil } from '../../src/pipeline/replay.ts';
import { connect } from '../../src/postgres/connection.ts';
import { momentAfter, momentBefore } from '../../src/postgres/positions.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { catchUp, eventually, log, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';

/*
 * Goal: what was applied once is applied again, exactly from where it was asked for, to exactly where it shall end; and
 * what cannot be is refused with nothing changed. Method: an append-only sink, which shows every event that comes.
 */
let database: TestDatabase;
let config: Config;
let sink: MemorySink;

beforeEach(async () => {
  database = await createDatabase();
  await database.query('create table t (id int primary key); create table u (id int primary key)');
  sink = new MemorySink('memory');
  ({ config } = testPipeline(database, { sinks: [] }, { retain: { bytes: 1e9 }, walBudget: { intervalMs: 200 } }));
  await catchUp(config, { sinks: [sink] });
});
afterEach(() => database.drop());

const lsn = async (): Promise<bigint> =>
  parseLsn((await database.query('select pg_current_wal_lsn()::text as lsn'))[0]!.lsn as string);
const keys = (from = 0): number[] =>
  sink.events.slice(from).flatMap(({ op, key }) => (op === 'c' ? [Number(key)] : []));
const run = async (goal: 'rewound' | 'caught-up', options: Partial<PipelineOptions>): Promise<void> => {
  const pipeline = new Pipeline({ config, role: 'all', log, sinks: [sink], ...options });
  await pipeline.run(goal, AbortSignal.timeout(120_000));
};
const all = { sink: 'memory', tables: null };

describe('replay in-process', () => {
  it('goes back durably, and the next run applies again from exactly there', async () => {
    await database.query('insert into t values (1)');
    const from = await lsn();
    await database.query('insert into t values (2)');
    await database.query('insert into t values (3)');
    await catchUp(config, { sinks: [sink] });
    const before = sink.events.length;
    await run('rewound', { replay: { ...all, from: { lsn: from } } });
    expect(sink.events.length).toBe(before);
    await catchUp(config, { sinks: [sink] });
    expect(keys(before)).toEqual([2, 3]);
    await catchUp(config, { sinks: [sink] });
    expect(keys(before)).toEqual([2, 3]);
  });

  it('stops at an LSN or a time, and the next run goes on from there', async () => {
    const from = await lsn();
    await database.query('insert into t values (1)');
    await database.query('insert into t values (2), (3)');
    const until = await lsn();
    await new Promise((resolve) => setTimeout(resolve, 50));
    const [row] = await database.query('select clock_timestamp() as now');
    await new Promise((resolve) => setTimeout(resolve, 50));
    await database.query('insert into t values (4), (5)');
    await database.query('insert into t values (6)');
    await catchUp(config, { sinks: [sink] });
    for (const bound of [{ lsn: until }, { time: row!.now as Date }]) {
      const before = sink.events.length;
      await run('caught-up', { replay: { ...all, from: { lsn: from } }, until: await findUntil(config, bound) });
      expect(keys(before)).toEqual([1, 2, 3]);
      await catchUp(config, { sinks: [sink] });
      expect(keys(before)).toEqual([1, 2, 3, 4, 5, 6]);
    }
  });

  it('finds an LSN by time', async () => {
    await database.query('insert into t values (1)');
    await catchUp(config, { sinks: [sink] });
    const [row] = await database.query('select clock_timestamp() as now');
    await database.query('insert into t values (2)');
    await catchUp(config, { sinks: [sink] });
    const before = sink.events.length;
    await run('caught-up', { replay: { ...all, from: { time: row!.now as Date } } });
    expect(keys(before)).toEqual([2]);
  });

  it('is done by a running pipeline, which streams on', async () => {
    const from = await lsn();
    const running = start(config, { sinks: [sink] });
    try {
      await database.query('insert into t values (1), (2)');
      await eventually('it came', () => keys().length === 2);
      const plan = await running.pipeline.replay({ ...all, from: { lsn: from } });
      expect(plan).toMatchObject({ from, tables: null });
      expect(plan.stoodAt).toBeGreaterThan(from);
      await eventually('it came again', () => keys().length === 4);
      await database.query('insert into t values (3)');
      await eventually('it streams on', () => keys().length === 5);
      expect(keys()).toEqual([1, 2, 1, 2, 3]);
    } finally {
      await running.stop();
    }
  });

  it('refuses, with nothing changed, what lies in the future, before what is held, or is unknown', async () => {
    await database.query('insert into t values (1)');
    const [{ lsn: held } = {}] = await database.query(
      'select confirmed_flush_lsn::text as lsn from pg_replication_slots where slot_name = $1',
      [database.name],
    );
    const running = start(config, { sinks: [sink] });
    try {
      await eventually('it came', () => keys().length === 1);
      const pipeline = running.pipeline;
      const session = (): Promise<unknown> =>
        database.query('select active_pid from pg_replication_slots where slot_name = $1', [database.name]);
      const before = await session();
      await eventually('it is up to date', () => pipeline.status().sinks[0]!.lagBytes === 0);
      await expect(pipeline.replay({ ...all, from: { lsn: await lsn() } })).rejects.toMatchObject({
        code: 'REPLAY',
        message: expect.stringContaining('has to be applied again'),
      });
      await expect(pipeline.replay({ ...all, from: { lsn: (await lsn()) + 1_000_000_000n } })).rejects.toMatchObject({
        code: 'REPLAY',
        message: expect.stringContaining("beyond the end of the server's WAL"),
      });
      await expect(pipeline.replay({ ...all, from: { lsn: parseLsn(held as string) - 1n } })).rejects.toMatchObject({
        code: 'REPLAY',
        message: expect.stringContaining(`holds WAL from ${held} on`),
        help: expect.stringMatching(
          new RegExp(`--from-lsn ${held}.*snapshot start TABLE… --sink memory.*source.retain`),
        ),
      });
      await expect(pipeline.replay({ ...all, from: { time: new Date('2001-01-01T00:00:00Z') } })).rejects.toMatchObject(
        {
          code: 'REPLAY',
          message: expect.stringContaining('2001-01-01'),
        },
      );
      const tables = [{ schema: 'public', table: 'nowhere' }];
      await expect(
        pipeline.replay({ sink: 'memory', tables, from: { lsn: parseLsn(held as string) } }),
      ).rejects.toMatchObject({
        code: 'USAGE',
        message: expect.stringContaining('public.nowhere'),
        help: expect.stringContaining('public.t'),
      });
      await expect(pipeline.replay({ sink: 'other', tables: null, from: { lsn: 1n } })).rejects.toMatchObject({
        code: 'NOT_RUNNING',
      });
      expect(running.pipeline.status().state).toBe('streaming');
      // Nothing was closed and opened again for what is refused.
      expect(await session()).toEqual(before);
      await database.query('insert into t values (2)');
      await eventually('it streams on', () => keys().length === 2);
    } finally {
      await running.stop();
    }
    expect(keys()).toEqual([1, 2]);
    const beyond = await lsn();
    await expect(run('rewound', { replay: { ...all, from: { lsn: beyond } } })).rejects.toMatchObject({
      code: 'REPLAY',
      message: expect.stringContaining('nothing from'),
    });
    await expect(findUntil(config, { lsn: beyond + 1_000_000_000n })).rejects.toMatchObject({ code: 'REPLAY' });
    expect(formatLsn(beyond)).toContain('/');
  });
});

describe('what was asked for once', () => {
  /** Nobody listens there. */
  const NOWHERE = 1;
  let proxy: TcpProxy;
  let port: number;

  beforeEach(async () => {
    proxy = await TcpProxy.before(database.url);
    port = Number(new URL(database.url).port);
    config = { ...config, source: { ...config.source, url: proxy.through(database.url) } };
  });
  afterEach(() => proxy.close());

  it('goes back once, whatever fails afterwards', async () => {
    const from = await lsn();
    await database.query('insert into t values (1), (2)');
    const running = start(config, { sinks: [sink] });
    try {
      await eventually('it came', () => keys().length === 2);
      const rewind = sink.rewind.bind(sink);
      let rewound = 0;
      sink.rewind = async (to) => {
        rewound++;
        await rewind(to);
        proxy.aim(NOWHERE);
      };
      await running.pipeline.replay({ ...all, from: { lsn: from } });
      await eventually('it failed', () => running.pipeline.status().state === 'stopped');
      proxy.aim(port);
      await eventually('it came again', () => keys().length === 4);
      expect(rewound).toBe(1);
    } finally {
      await running.stop();
    }
    expect(keys()).toEqual([1, 2, 1, 2]);
  });

  it('copies once, whatever fails afterwards', async () => {
    await database.query('insert into t values (1), (2)');
    let streams = 0;
    proxy.wire = async (piece) => {
      if (!piece.includes('START_REPLICATION') || streams++ > 0) return [piece];
      proxy.cut();
      return [];
    };
    const ended = new AbortController();
    const pipeline = new Pipeline({ config, role: 'all', log, sinks: [sink], recopy: true });
    const finished = pipeline.run(null, ended.signal);
    try {
      await eventually('it streams', () => streams > 1);
      await database.query('insert into t values (3)');
      await eventually('it came', () => keys().includes(3));
    } finally {
      ended.abort();
      await finished;
    }
    const copied = sink.events.filter(({ op, table }) => op === 'r' && table === 't');
    expect(copied.map(({ key }) => key).sort()).toEqual(['1', '2']);
  });
});

describe('a time', () => {
  it('is found where the clock of the server was set back', async () => {
    await database.query('truncate waltide.positions');
    // Set back by an hour at 0/400.
    await database.query(
      `insert into waltide.positions values ('0/100', '2001-01-01 10:00Z'), ('0/200', '2001-01-01 10:30Z'), ('0/300', '2001-01-01 11:00Z'),
         ('0/400', '2001-01-01 10:05Z'), ('0/500', '2001-01-01 10:25Z'), ('0/600', '2001-01-01 11:10Z')`,
    );
    const client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
    try {
      const at = new Date('2001-01-01 10:26Z');
      // What was committed from then on may lie before the clock was set back, what was committed by then after it.
      expect((await momentBefore(client, at))?.lsn).toBe(0x100n);
      expect((await momentAfter(client, at))?.lsn).toBe(0x600n);
    } finally {
      await client.end();
    }
  });
});

describe('replay into DuckDB', () => {
  it('does not undo what only a snapshot has brought', async () => {
    const { config: duckdb, path } = testPipeline(database, {}, { retain: { bytes: 1e9 } });
    await database.query(`select pg_drop_replication_slot('${database.name}'); drop schema waltide cascade`);
    await database.query('alter table t add v text; insert into t values (1), (2)');
    await catchUp(duckdb);
    const from = await lsn();
    await database.query("update t set v = 'streamed'; update u set id = id");
    await catchUp(duckdb);
    // Nobody decodes what is written while the table is not published; a snapshot mends it once it is again.
    const publication = `"${database.name}"`;
    await database.query(`alter publication ${publication} drop table t`);
    await database.query("update t set v = 'unseen' where id = 1");
    await database.query(`alter publication ${publication} add table t`);
    expect(await catchUp(duckdb)).toEqual([]);
    const equal = (): Promise<string[]> => withDuckdb(path, (query) => differences(database.url, query, ['public.t']));
    expect(await equal()).toEqual([]);
    const replay = { sink: 'analytics', tables: null, from: { lsn: from } };
    const pipeline = new Pipeline({ config: duckdb, role: 'all', log, replay });
    await pipeline.run('caught-up', AbortSignal.timeout(120_000));
    expect(await equal()).toEqual([]);
  });

  /*
   * A key that moved without its TOASTed value: where the change comes again, only the row under the new key can complete it,
   * and only as long as nothing that came again before has overwritten or removed that.
   */
  describe('of keys that moved, in whatever batches', () => {
    let path: string;
    let duckdb: Config;
    const equal = (): Promise<string[]> => withDuckdb(path, (query) => differences(database.url, query, ['public.t']));
    const again = async (from: bigint): Promise<void> => {
      const replay = { sink: 'analytics', tables: null, from: { lsn: from } };
      const pipeline = new Pipeline({ config: duckdb, role: 'all', log, replay });
      await pipeline.run('caught-up', AbortSignal.timeout(120_000));
    };
    beforeEach(async () => {
      await database.query(`select pg_drop_replication_slot('${database.name}'); drop schema waltide cascade`);
      await database.query('alter table t add v text, add n int; alter table t alter v set storage external');
      const sinks = [
        { name: 'analytics', type: 'duckdb' as const, path: 'a.duckdb', batch: { rowsMax: 1, lingerMs: 0 } },
      ];
      const transport = { type: 'in-process' as const, inFlightBytesMax: 65_536 };
      ({ config: duckdb } = testPipeline(database, { sinks, transport }, { retain: { bytes: 1e9 } }));
      path = (duckdb.sinks[0] as { path: string }).path;
      await catchUp(duckdb);
    });
    const big = (letter: string): string => `repeat('${letter}', 5000)`;

    it('onto a key that another row has left', async () => {
      const from = await lsn();
      await database.query(`insert into t values (1, ${big('a')}, 1)`);
      await database.query(`insert into t values (2, ${big('b')}, 1)`);
      await database.query('delete from t where id = 2');
      // More than goes into one batch.
      await database.query('insert into u select i from generate_series(1, 5000) i');
      await database.query('update t set id = 2 where id = 1');
      await database.query('update t set n = 7');
      await catchUp(duckdb);
      expect(await equal()).toEqual([]);
      await again(from);
      expect(await equal()).toEqual([]);
    });

    it('to a key that the sink has not seen when the replay begins', async () => {
      const from = await lsn();
      await database.query(`insert into t select i, ${big('a')}, i from generate_series(1, 50) i`);
      await database.query('update t set n = n + 1');
      await catchUp(duckdb);
      // Comes right behind what comes again, and may well be in one batch with the last of it.
      for (let i = 1; i <= 50; i++) await database.query(`update t set id = ${i + 100} where id = ${i}`);
      await again(from);
      expect(await equal()).toEqual([]);
    });
  });
});
