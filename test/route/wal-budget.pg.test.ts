import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, query, startPostgres, type TestDatabase } from '../support/postgres.ts';
import { askForSnapshot } from '../support/snapshots.ts';

/*
 * Goal: the budget tells in time, the slot that is lost is told apart, and one command recovers. Method: a real server
 * that keeps very little WAL, a sink that stands still, and WAL of another table.
 */
let server: EmbeddedPostgres;
const MB = 1024 * 1024;
const WATCH = { intervalMs: 100 };

beforeAll(async () => {
  server = await startPostgres({
    max_slot_wal_keep_size: '96MB',
    max_wal_size: '32MB',
    min_wal_size: '32MB',
    wal_keep_size: '0',
    checkpoint_timeout: '30min',
  });
});
afterAll(() => server.stop());

async function database(): Promise<TestDatabase> {
  const made = await createDatabase(server.url);
  await made.query(
    'create table t (id int primary key, body text); create table noise (body text); alter table noise alter body set storage external',
  );
  await made.query('insert into t values (1, $1)', ['first']);
  return made;
}

/** About `mb` megabytes of WAL that no publication has. */
const makeWal = (made: TestDatabase, mb: number): Promise<unknown> =>
  made.query("insert into noise select repeat('x', 8000) from generate_series(1, $1::int)", [mb * 122]);

/** A sink that takes nothing in until it is let. */
function standing(): { sink: MemorySink; let(): void } {
  const sink = new MemorySink('standing');
  let release = (): void => {};
  const held = new Promise<void>((resolve) => (release = resolve));
  sink.before = (delivery) => (delivery.events.some(({ op }) => op === 'c') ? held : Promise.resolve());
  return { sink, let: release };
}

describe('the WAL budget of a real server', () => {
  it('rises level by level while a sink stands still, tells when it is used up, and is at ease afterwards', async () => {
    const made = await database();
    const { sink, let: go } = standing();
    const { config } = testPipeline(made, {}, { tables: ['public.t'], walBudget: WATCH });
    await catchUp(config, { sinks: [sink] });
    const running = start(config, { sinks: [sink] });
    const budget = () => running.pipeline.status().source?.budget ?? null;
    try {
      await eventually('it is looked at', () => budget() !== null);
      expect(budget()).toMatchObject({ level: 'ok', budgetBytes: 96 * MB });
      await made.query("insert into t values (2, 'held')");
      await eventually('the sink stands', () => running.pipeline.status().transport.bytesInFlight > 0);
      const levels = new Set<string>();
      for (let i = 0; i < 22 && !levels.has('critical'); i++) {
        await makeWal(made, 5);
        // Not in the midst of it: two steps at once might pass a level by.
        await eventually('it is looked at again', async () => {
          const [row] = await made.query(
            'select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 as bytes from pg_replication_slots where slot_name = $1',
            [made.name],
          );
          return budget()!.retainedBytes > (row!.bytes as number) - MB;
        });
        levels.add(budget()!.level);
      }
      expect([...levels]).toEqual(['ok', 'notice', 'warning', 'critical']);
      const { safeBytes, secondsLeft, walBytesPerSecond, retainedBytes } = budget()!;
      expect(safeBytes).toBeLessThan(20 * MB);
      expect(retainedBytes).toBeGreaterThan(80 * MB);
      expect(walBytesPerSecond).toBeGreaterThan(MB);
      expect(secondsLeft).toBeGreaterThan(0);
      go();
      await eventually('it is at ease', async () => {
        await made.query('select pg_log_standby_snapshot()');
        return budget()!.level === 'ok';
      });
    } finally {
      go();
      await running.stop();
      await made.drop();
    }
  });

  it('says that and why a slot is lost, and one command recovers', async () => {
    const made = await database();
    const { config, path } = testPipeline(made, {}, { tables: ['public.t'], walBudget: WATCH });
    await catchUp(config);
    await made.query("insert into t values (2, 'lost')");
    for (let i = 0; i < 3; i++) {
      await makeWal(made, 50);
      await made.query('select pg_switch_wal()');
      await made.query('checkpoint');
    }
    await expect(catchUp(config)).rejects.toMatchObject({
      code: 'SLOT_LOST',
      message: expect.stringContaining('max_slot_wal_keep_size'),
      help: expect.stringContaining('`waltide run --recopy`'),
    });
    await catchUp(config, { recopy: true });
    expect(await withDuckdb(path, (run) => differences(made.url, run, ['public.t']))).toEqual([]);
    await made.drop();
  });

  it('pauses snapshots while it is used up, and only those', async () => {
    const made = await database();
    const { sink, let: go } = standing();
    const walBudget = { ...WATCH, bytes: 30 * MB, onBudget: 'pause-snapshot' as const };
    const { config, path } = testPipeline(made, {}, { tables: ['public.t'], walBudget });
    await made.query('insert into t select i, repeat(md5(i::text), 20) from generate_series(2, 1500) i');
    await catchUp(config, { sinks: [sink] });
    const slow = { ...config, snapshot: { ...config.snapshot, chunkRows: 100, rowsPerSecondMax: 100 } };
    const running = start(slow, { sinks: [sink] });
    const snapshot = async () => {
      const [row] = await made.query('select state, rows_done from waltide.snapshots order by created_at desc limit 1');
      return row;
    };
    try {
      await eventually('it streams', () => running.pipeline.status().source?.connected === true);
      await askForSnapshot(made, config, 't');
      await eventually('chunks are read', async () => Number((await snapshot())?.rows_done ?? 0) > 0);
      // It begins only where the sink takes it in, and is not over before the sink has it: what is left takes 14 s until then.
      await made.query("insert into t values (4000, 'held')");
      await eventually('the sink stands', () => running.pipeline.status().transport.bytesInFlight > 0);
      await makeWal(made, 28);
      await eventually('it is paused', async () => (await snapshot())?.state === 'paused');
      const rows = (await snapshot())?.rows_done;
      await new Promise((resolve) => setTimeout(resolve, 1500));
      expect((await snapshot())?.rows_done).toBe(rows);
      go();
      await eventually('it goes on', async () => {
        await made.query('select pg_log_standby_snapshot()');
        return (await snapshot())?.state === 'completed';
      });
      await running.stop();
      expect(await catchUp(config, { sinks: [sink] })).toEqual([]);
      expect(await withDuckdb(path, (run) => differences(made.url, run, ['public.t']))).toEqual([]);
    } finally {
      go();
      await running.stop();
      await made.drop();
    }
  });

  it('lets snapshots go on that it paused, though it is not to pause any by now', async () => {
    const made = await database();
    const { config } = testPipeline(made, {}, { tables: ['public.t'], walBudget: WATCH });
    await catchUp(config);
    await askForSnapshot(made, config, 't');
    await made.query("update waltide.snapshots set state = 'paused', error = 'paused until the WAL budget is at ease'");
    const running = start(config);
    try {
      await eventually('it went on', async () => {
        const [row] = await made.query('select state from waltide.snapshots');
        return row!.state === 'completed';
      });
    } finally {
      await running.stop();
      await made.drop();
    }
  });

  it('drops the slot before the disk fills, fills every table anew, and keeps the rows meanwhile', async () => {
    const made = await database();
    const { sink, let: go } = standing();
    const walBudget = { ...WATCH, bytes: 40 * MB, onBudget: 'drop-and-resnapshot' as const };
    const { config, path } = testPipeline(made, {}, { tables: ['public.t'], walBudget });
    await catchUp(config, { sinks: [sink] });
    const running = start(config, { sinks: [sink] });
    try {
      await eventually('it streams', () => running.pipeline.status().source?.connected === true);
      await made.query("insert into t values (2, 'held')");
      await eventually('the sink stands', () => running.pipeline.status().transport.bytesInFlight > 0);
      await makeWal(made, 40);
      // The sink still stands: that must not keep the slot.
      await eventually('the slot is dropped', async () => {
        const slots = await query(server.url, 'select 1 from pg_replication_slots where slot_name = $1', [made.name]);
        return slots.length === 0;
      });
      go();
      await eventually('a new one streams', async () => {
        const slots = await query(server.url, 'select 1 from pg_replication_slots where slot_name = $1', [made.name]);
        return slots.length === 1 && running.pipeline.status().ready;
      });
      await made.query("insert into t values (3, 'after')");
      await eventually('everything is there', async () => {
        const options = { sink: 'analytics', rowsMax: 10, timeoutMs: 60_000 };
        return (await running.pipeline.query('select id from t order by id', options)).rows.length === 3;
      });
    } finally {
      go();
      await running.stop();
    }
    expect(await withDuckdb(path, (run) => differences(made.url, run, ['public.t']))).toEqual([]);
    await made.drop();
  });
});
