import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { formatLsn, type Lsn, parseLsn } from '../../src/event/lsn.ts';
import { eventually, type RunningPipeline, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

const LIMITS = { rowsMax: 10, timeoutMs: 10_000 };
/** Far beyond what it takes, far below the heartbeat and what a table may linger. */
const PATIENCE_MS = 30_000;

let database: TestDatabase;
let running: RunningPipeline;

/** As anyone has it: after the commit, in whatever session. */
async function walEnd(sql: string): Promise<Lsn> {
  await database.query(sql);
  const [row] = await database.query('select pg_current_wal_insert_lsn()::text as lsn');
  return parseLsn(row!.lsn as string);
}

const countIn = async (table: string): Promise<unknown> =>
  (await running.pipeline.query(`select count(*)::int from main.${table}`, LIMITS)).rows[0]![0];

beforeAll(async () => {
  database = await createDatabase();
  await database.query('create table quick (id int primary key); create table slow (id int primary key)');
  const { config } = testPipeline(
    database,
    { tableStrategies: [{ tables: ['public.slow'], strategy: 'batch' }] },
    // Nothing but what is written moves the stream on.
    { heartbeatIntervalMs: 0 },
  );
  running = start(config);
  await eventually('streaming', () => running.pipeline.status().ready);
});

afterAll(async () => {
  await running.stop();
  await database.drop();
});

describe('waiting for a sink', () => {
  it('ends when it holds what was committed before', async () => {
    for (let id = 1; id <= 20; id++) {
      const lsn = await walEnd(`insert into quick values (${id})`);
      const { reached, sinks } = await running.pipeline.waitFor(lsn, { timeoutMs: PATIENCE_MS });
      expect(reached, formatLsn(lsn)).toBe(true);
      expect(sinks.map(({ name }) => name)).toEqual(['analytics']);
      expect(await countIn('quick')).toBe(id);
    }
  });

  it('also where what was written last is none of its tables', async () => {
    const lsn = await walEnd("select pg_logical_emit_message(true, 'someone', 'else')");
    expect(await running.pipeline.waitFor(lsn, { timeoutMs: PATIENCE_MS })).toMatchObject({ reached: true });
    const temporary = await walEnd('create temp table t (id int); analyze quick');
    expect(await running.pipeline.waitFor(temporary, { timeoutMs: PATIENCE_MS })).toMatchObject({ reached: true });
  });

  it('spares what may linger where it is asked to', async () => {
    const lsn = await walEnd('insert into slow values (1)');
    const plain = running.pipeline.waitFor(lsn, { timeoutMs: PATIENCE_MS });
    const atOnce = running.pipeline.waitFor(lsn, { timeoutMs: PATIENCE_MS, atOnce: true });
    expect(await atOnce).toMatchObject({ reached: true });
    expect(await plain).toMatchObject({ reached: true });
    expect(await countIn('slow')).toBe(1);
  });

  it('takes a table that lingers along with one that does not, whole transactions', async () => {
    const lsn = await walEnd('begin; insert into slow values (2); insert into quick values (100); commit');
    expect(await running.pipeline.waitFor(lsn, { timeoutMs: PATIENCE_MS })).toMatchObject({ reached: true });
    expect(await countIn('slow')).toBe(2);
  });

  it('waits for a table to be whole there, where that is asked for', async () => {
    const table = { schema: 'public', table: 'late' };
    const lsn = await walEnd(
      'create table late (id int primary key); insert into late select generate_series(1, 1000)',
    );
    const whole = running.pipeline.waitFor(lsn, { timeoutMs: PATIENCE_MS, table });
    expect(await running.pipeline.waitFor(lsn, { timeoutMs: 0, table })).toMatchObject({ reached: false });
    expect(await whole).toMatchObject({ reached: true });
    expect(await countIn('late')).toBe(1000);
  });

  it('says how far it is when the time is up, and when the caller gives up', async () => {
    const far = parseLsn('FFFF/0');
    const { reached, sinks } = await running.pipeline.waitFor(far, { timeoutMs: 50 });
    expect(reached).toBe(false);
    expect(sinks).toMatchObject([{ name: 'analytics', reached: false }]);
    expect(sinks[0]!.appliedLsn).toBeGreaterThan(0n);
    const signal = AbortSignal.timeout(50);
    expect(await running.pipeline.waitFor(far, { timeoutMs: 600_000, signal })).toMatchObject({ reached: false });
  });

  it('refuses a sink that there is not', async () => {
    await expect(running.pipeline.waitFor(1n, { sinks: ['analytic'], timeoutMs: 50 })).rejects.toMatchObject({
      code: 'USAGE',
      message: 'there is no sink "analytic"; did you mean "analytics"?',
    });
  });

  it('goes on through a new beginning of the pipeline, and ends with its end', async () => {
    const lsn = await walEnd('insert into quick values (200)');
    const waiting = running.pipeline.waitFor(lsn, { timeoutMs: PATIENCE_MS });
    running.pipeline.beginAgain({ reason: 'a test' });
    expect(await waiting).toMatchObject({ reached: true });
    const never = running.pipeline.waitFor(parseLsn('FFFF/0'), { timeoutMs: 600_000 });
    never.catch(() => {});
    await running.stop();
    await expect(never).rejects.toMatchObject({ code: 'NOT_RUNNING' });
  });
});
