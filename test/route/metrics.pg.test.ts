import pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { WaltideError } from '../../src/errors.ts';
import { parseLsn } from '../../src/event/lsn.ts';
import { createMetrics } from '../../src/metrics/metrics.ts';
import { Stored } from '../../src/metrics/stored.ts';
import { installDdlCapture } from '../../src/postgres/ddl-capture.ts';
import { Sessions } from '../../src/postgres/sessions.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { eventually, type RunningPipeline, start, type TestPipeline, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { type Metric, parsePrometheus, sampleOf } from '../support/prometheus.ts';

/*
 * Goal: every number is what it should be, above all a lag: of an idle source, one that stands still, a sink that stands
 * still. Method: PostgreSQL into DuckDB and into a sink of the test's own, read through the text that Prometheus reads.
 */
let database: TestDatabase;
let test: TestPipeline;
let sessions: Sessions;
let running: RunningPipeline;
/** Takes what it is given, until `before` is set. */
const memory = new MemorySink('memory');
const free = memory.before;
let scrape: () => Promise<ReadonlyMap<string, Metric>>;

const DUCKDB = { sink: 'analytics' };
const MEMORY = { sink: 'memory' };

beforeAll(async () => {
  database = await createDatabase();
  await database.query(`
    create table t (id int primary key, price numeric(10, 2));
    create table u (id int primary key);
    insert into t select i, 1 from generate_series(1, 500) i;
    analyze t`);
  const sink = { name: 'analytics', type: 'duckdb' as const, onUnrepresentable: 'dead-letter' as const };
  test = testPipeline(database, {});
  test = testPipeline(
    database,
    { sinks: [{ ...sink, path: test.path }], shutdownTimeoutMs: 1000 },
    { walBudget: { bytes: 1e9, intervalMs: 200 }, retain: { bytes: 1e8 } },
  );
  sessions = new Sessions(test.config.source, 'metrics');
  running = start(test.config, { sinks: [memory] });
  const stored = new Stored(sessions, test.config);
  const { read } = createMetrics({
    status: () => running.pipeline.status(),
    stored: () => stored.read(),
    tablesMax: 100,
  });
  scrape = async () => parsePrometheus(await read());
  await eventually('it streams', () => running.pipeline.status().state === 'streaming');
});
afterEach(() => {
  memory.before = free;
});
afterAll(async () => {
  await running.stop();
  await sessions.close();
  await database.drop();
});

/** Until a scrape satisfies it; that scrape. */
async function when(
  what: string,
  holds: (value: (name: string, labels?: Record<string, string>) => number | undefined) => boolean,
) {
  let metrics = await scrape();
  await eventually(what, async () => {
    metrics = await scrape();
    return holds((name, labels) => sampleOf(metrics, name, labels));
  });
  return (name: string, labels?: Record<string, string>) => sampleOf(metrics, name, labels);
}

it('counts what is copied and streamed: events, batches by size, snapshots, WAL, memory', async () => {
  await database.query('insert into u values (1), (2); update t set price = 2 where id <= 100');
  const value = await when(
    'all is applied',
    (of) => (of('waltide_sink_table_events_total', { ...DUCKDB, table: 'public.t' }) ?? 0) >= 600,
  );
  const u = await when(
    'of every sink',
    (of) =>
      (of('waltide_sink_table_events_total', { ...MEMORY, table: 'public.u' }) ?? 0) >= 2 &&
      of('waltide_wal_budget_bytes', { slot: database.name }) !== undefined,
  );
  expect(u('waltide_snapshot_rows_total', { table: 'public.t', kind: 'initial' })).toBe(500);
  expect(u('waltide_snapshot_rows_estimated', { table: 'public.t', kind: 'initial' })).toBe(500);
  expect(u('waltide_snapshot_state', { table: 'public.t', kind: 'initial', state: 'completed' })).toBe(1);
  expect(u('waltide_sink_batch_rows_sum', DUCKDB)).toBe(u('waltide_sink_events_total', DUCKDB));
  expect(u('waltide_sink_batch_bytes_sum', DUCKDB)).toBeGreaterThan(1000);
  expect(u('waltide_sink_batch_rows_bucket', { ...DUCKDB, le: '1' })).toBeLessThan(
    u('waltide_sink_batch_rows_count', DUCKDB)!,
  );
  expect(u('waltide_sink_apply_seconds_sum', DUCKDB)).toBeGreaterThan(0);
  expect(u('waltide_sink_commit_delay_seconds_count', DUCKDB)).toBeGreaterThan(0);
  expect(u('waltide_source_batch_rows_sum', { slot: database.name })).toBe(
    u('waltide_source_events_total', { slot: database.name }),
  );
  expect(u('waltide_wal_budget_bytes', { slot: database.name })).toBe(1e9);
  expect(value('waltide_memory_rss_bytes')).toBeGreaterThan(1e7);
  expect(
    value('waltide_build_info', { version: running.pipeline.status().version, role: 'all', transport: 'in-process' }),
  ).toBe(1);
  const [{ at } = { at: 0 }] = (await database.query('select extract(epoch from now())::float8 as at')) as {
    at: number;
  }[];
  const last = u('waltide_sink_table_last_commit_timestamp_seconds', { ...DUCKDB, table: 'public.u' })!;
  expect(at - last).toBeGreaterThanOrEqual(0);
  expect(at - last).toBeLessThan(300);
});

it('an idle source: no lag, and a round trip that is measured by heartbeats', async () => {
  const trips = new Set<number>();
  await when('three heartbeats come back', (of) => {
    const trip = of('waltide_sink_heartbeat_round_trip_seconds', DUCKDB);
    if (trip !== undefined) trips.add(trip);
    return trips.size > 3;
  });
  const value = await when('nothing lags', (of) =>
    [DUCKDB, MEMORY].every((sink) => of('waltide_stage_lag_seconds', { stage: 'applied', ...sink }) === 0),
  );
  expect(value('waltide_sink_lag_seconds', DUCKDB)).toBe(0);
  expect(value('waltide_stage_lag_seconds', { stage: 'captured' })).toBe(0);
  expect(value('waltide_sink_table_lag_seconds', { ...DUCKDB, table: 'public.t' })).toBe(0);
});

it('a sink that stands still: it lags, and of its tables those that wait; the others do not', async () => {
  let go = (): void => {};
  const held = new Promise<void>((resolve) => (go = resolve));
  memory.before = ({ events }) => (events.length > 0 ? held : Promise.resolve());
  await database.query('update t set price = 3 where id = 1');
  const lag = { stage: 'applied', ...MEMORY };
  const value = await when(
    'it lags',
    (of) =>
      (of('waltide_stage_lag_seconds', lag) ?? 0) > 3 &&
      (of('waltide_stage_lag_seconds', { stage: 'published' }) ?? 0) > 3, // In-process, by the slowest sink.
  );
  expect(value('waltide_sink_table_lag_seconds', { ...MEMORY, table: 'public.t' })).toBeGreaterThan(2);
  expect(value('waltide_sink_table_lag_bytes', { ...MEMORY, table: 'public.t' })).toBeGreaterThan(0);
  await when(
    'the rest of the road does not',
    (of) =>
      of('waltide_stage_lag_seconds', { stage: 'applied', ...DUCKDB })! < 2 &&
      of('waltide_stage_lag_seconds', { stage: 'captured' })! < 2 &&
      of('waltide_sink_table_lag_seconds', { ...MEMORY, table: 'public.u' })! < 2,
  );
  go();
  memory.before = free;
  await when('it has caught up', (of) => of('waltide_sink_lag_seconds', MEMORY)! < 2);
});

it('a source that stands still: everything lags, though nobody commits', async () => {
  const [{ pid } = { pid: 0 }] = (await database.query(
    'select active_pid as pid from pg_replication_slots where slot_name = $1',
    [database.name],
  )) as { pid: number }[];
  process.kill(pid, 'SIGSTOP');
  try {
    await when('the capture lags', (of) => (of('waltide_stage_lag_seconds', { stage: 'captured' }) ?? 0) > 3);
    for (const sink of [DUCKDB, MEMORY]) {
      const value = await when(
        `sink ${sink.sink} lags`,
        (of) =>
          of('waltide_sink_lag_seconds', sink)! > 3 &&
          of('waltide_sink_heartbeat_round_trip_seconds', sink)! > 3 &&
          // A change of any table may be among what does not come.
          of('waltide_sink_table_lag_seconds', { ...sink, table: 'public.u' })! > 3,
      );
      expect(value('waltide_sink_lag_bytes', sink)).toBeGreaterThan(0);
    }
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  await when(
    'it is over',
    (of) => of('waltide_sink_lag_seconds', DUCKDB)! < 2 && of('waltide_sink_lag_bytes', DUCKDB)! < 1e6,
  );
});

it('dead letters: how many, of which table, since when', async () => {
  await database.query("update t set price = 'NaN' where id = 7");
  const value = await when('it is written', (of) => of('waltide_dead_letters', { ...DUCKDB, table: 'public.t' }) === 1);
  expect(value('waltide_dead_letters_retrying', DUCKDB)).toBe(0);
  expect(Date.now() / 1000 - value('waltide_dead_letters_oldest_timestamp_seconds', DUCKDB)!).toBeLessThan(300);
  await database.query('update t set price = 7 where id = 7');
  await when('it is settled', (of) => of('waltide_dead_letters', { ...DUCKDB, table: 'public.t' }) === undefined);
});

it('validation: the score of each table, as of the last that looked at all of it', async () => {
  const report = await running.pipeline.validate({ sinks: ['analytics'] }, { signal: AbortSignal.timeout(60_000) });
  expect(report.ok).toBe(true);
  const value = await when(
    'it is read',
    (of) => of('waltide_validation_score_ratio', { ...DUCKDB, table: 'public.t' }) === 1,
  );
  expect(value('waltide_validation_different_rows', { ...DUCKDB, table: 'public.t' })).toBe(0);
  expect(
    Date.now() / 1000 - value('waltide_validation_timestamp_seconds', { ...DUCKDB, table: 'public.t' })!,
  ).toBeLessThan(300);
});

it('a table that is renamed goes on under its new name, and one that is dropped has no series any more', async () => {
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  await installDdlCapture(client);
  await client.end();
  await database.query('alter table t rename to t2; update t2 set price = 5 where id = 1');
  const events = (of: (name: string, labels: Record<string, string>) => number | undefined, table: string) =>
    of('waltide_sink_table_events_total', { ...DUCKDB, table });
  await when('it goes on', (of) => (events(of, 'public.t2') ?? 0) > 600 && events(of, 'public.t') === undefined);
  await database.query('drop table t2');
  await when('it is gone', (of) => events(of, 'public.t2') === undefined && events(of, 'public.u') !== undefined);
  await eventually('every series of it', async () => {
    const named = [...(await scrape()).values()].flatMap(({ samples }) => samples.map(({ labels }) => labels.table));
    return !named.includes('public.t') && !named.includes('public.t2');
  });
});

it('a replay: what is applied once more is counted anew, and the sink lags no more once it is there again', async () => {
  const table = { ...MEMORY, table: 'public.u' };
  const [from] = await database.query('select pg_current_wal_insert_lsn()::text as lsn');
  await database.query('insert into u values (3), (4)');
  const before = sampleOf(await scrape(), 'waltide_sink_table_events_total', table)!;
  await when(
    'it is applied',
    (of) => of('waltide_sink_table_events_total', table)! >= before && memory.events.at(-1)?.key === '4',
  );
  await running.pipeline.replay({
    sink: 'memory',
    tables: [{ schema: 'public', table: 'u' }],
    from: { lsn: parseLsn(from!.lsn as string) },
  });
  const value = await when(
    'it is applied once more',
    (of) => of('waltide_sink_table_events_total', table) === 2 && of('waltide_sink_lag_seconds', MEMORY)! < 2,
  );
  expect(value('waltide_sink_events_total', MEMORY)).toBe(2);
  expect(value('waltide_state', { state: 'streaming' })).toBe(1);
});

it('a sink that fails: retries and the breaker', async () => {
  memory.before = async ({ events }) => {
    if (events.length > 0) throw new WaltideError('SINK', 'it is down', 'Wait.');
  };
  await database.query('insert into u values (5)');
  const value = await when('it opens', (of) => of('waltide_sink_breaker_state', { ...MEMORY, state: 'open' }) === 1);
  expect(value('waltide_sink_breaker_state', { ...MEMORY, state: 'closed' })).toBe(0);
  expect(value('waltide_sink_breaker_state', { ...DUCKDB, state: 'closed' })).toBe(1);
  expect(value('waltide_sink_breaker_opened_total', MEMORY)).toBe(1);
  expect(value('waltide_sink_retries_total', MEMORY)).toBeGreaterThanOrEqual(8);
});
