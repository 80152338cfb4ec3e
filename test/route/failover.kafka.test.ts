import { afterEach, expect, it } from 'vitest';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { WaltideError } from '../../src/errors.ts';
import { parseLsn } from '../../src/event/lsn.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, query, startPostgres, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';
import { STANDBY_SLOT, type Standby, startStandby } from '../support/standby.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

let primary: EmbeddedPostgres | null = null;
let standby: Standby | null = null;

afterEach(async () => {
  await Promise.all([primary?.stop('immediate'), standby?.stop()]);
  primary = standby = null;
});

function on(server: EmbeddedPostgres, database: TestDatabase): string {
  const url = new URL(database.url);
  url.port = String(server.port);
  return url.href;
}

/** One position per change: what comes twice is seen. */
const positions = ({ events }: MemorySink): string[] =>
  events.flatMap(({ op, position }) => (op === 'm' ? [] : [position]));

it('a promotion under load loses and doubles nothing through Kafka, and LSNs of the old timeline are refused', async () => {
  const brokers = await ensureSharedKafka();
  primary = await startPostgres({ synchronized_standby_slots: STANDBY_SLOT });
  standby = await startStandby(primary);
  const database = await createDatabase(primary.url);
  await database.query(SCHEMA);
  const both = `${database.url.replace(/(127\.0\.0\.1:\d+)/, `$1,127.0.0.1:${standby.server.port}`)}?target_session_attrs=read-write`;
  const { config, path } = testPipeline(
    database,
    { transport: { type: 'kafka', brokers, topicPrefix: database.name } },
    { url: both, failover: true, connectTimeoutMs: 30_000 },
  );
  const sink = new MemorySink('memory');
  const running = start(config, { sinks: [sink] });
  await eventually('it streams', () => running.pipeline.status().source?.connected === true);
  await runWorkload(database.url, 1, AbortSignal.timeout(500));
  await standby.syncSlot(database.name);
  const [{ lsn: early } = {}] = await query(database.url, 'select pg_current_wal_flush_lsn()::text as lsn');

  const workload = runWorkload(database.url, 2, new AbortController().signal).catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 1000));
  await primary.kill();
  await workload;
  await standby.promote();
  const promoted = on(standby.server, database);
  await runWorkload(promoted, 3, AbortSignal.timeout(500));
  await eventually('it streams again', () => running.pipeline.status().source?.connected === true);
  await running.stop();
  expect(await catchUp(config, { sinks: [sink] })).toEqual([]);
  expect(await withDuckdb(path, (run) => differences(promoted, run, TABLES))).toEqual([]);
  const seen = positions(sink);
  expect(seen.length).toBeGreaterThan(0);
  expect(new Set(seen).size).toBe(seen.length);

  // The old primary went on alone, to where the new timeline has not been.
  await primary.start({ synchronized_standby_slots: '' });
  await query(database.url, "insert into event_log select 'old', 'x', i from generate_series(1, 100000) i");
  const [{ lsn } = {}] = await query(database.url, 'select pg_current_wal_flush_lsn()::text as lsn');
  await primary.halt('immediate');
  const here = { ...config, source: { ...config.source, url: promoted } };
  const again = start(here, { sinks: [sink] });
  try {
    await eventually('it is up to date', () => {
      const { sinks } = again.pipeline.status();
      return sinks.length === 2 && sinks.every(({ lagBytes }) => lagBytes === 0);
    });
    const before = positions(sink).length;
    const refused = await again.pipeline
      .replay({ sink: 'analytics', tables: null, from: { lsn: parseLsn(lsn as string) } })
      .catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(WaltideError);
    expect(refused).toMatchObject({ code: 'REPLAY', help: expect.stringContaining('timeline') });
    expect(positions(sink).length).toBe(before);
    // From before the new timeline branched off: all of it is in the log, whoever wrote it.
    const keyed = TABLES.filter((name) => name !== 'public.event_log').map((name) => {
      const [schema, table] = name.split('.') as [string, string];
      return { schema, table };
    });
    await again.pipeline.replay({ sink: 'analytics', tables: keyed, from: { lsn: parseLsn(early as string) } });
    await eventually('it has applied all of it again', () =>
      again.pipeline.status().sinks.every(({ lagBytes }) => lagBytes === 0),
    );
  } finally {
    await again.stop();
  }
  expect(await catchUp(here, { sinks: [sink] })).toEqual([]);
  expect(await withDuckdb(path, (run) => differences(promoted, run, TABLES))).toEqual([]);
}, 300_000);

it('a promotion of an old server is refused with Kafka between, and its remedy fills all anew', async () => {
  const brokers = await ensureSharedKafka();
  primary = await startPostgres({}, { version: 16 });
  standby = await startStandby(primary, { version: 16 });
  const database = await createDatabase(primary.url);
  await database.query('create table t (id int primary key); insert into t values (1)');
  const { config, path } = testPipeline(database, {
    transport: { type: 'kafka', brokers, topicPrefix: database.name },
  });
  expect(await catchUp(config)).toEqual([]);
  const url = on(standby.server, database);
  await eventually('the standby knows of the copy', async () => {
    const found = await query(url, "select from waltide.slots where state = 'streaming'").catch(() => []);
    return found.length === 1;
  });
  await primary.kill();
  await standby.promote();
  await query(url, 'delete from t; insert into t values (2), (3)');
  const here = { ...config, source: { ...config.source, url } };
  await expect(catchUp(here)).rejects.toMatchObject({
    code: 'SLOT_MISSING',
    message: expect.stringContaining('a standby was promoted at'),
    help: expect.stringContaining('--recopy'),
  });
  expect(await withDuckdb(path, (run) => run('select id from t'))).toEqual([[1]]);
  expect(await catchUp(here, { recopy: true })).toEqual([]);
  expect(await withDuckdb(path, (run) => differences(url, run, ['public.t']))).toEqual([]);
}, 300_000);
