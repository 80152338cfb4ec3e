import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { ModelSink } from '../support/model-sink.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';
import { askForSnapshot } from '../support/snapshots.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

let database: TestDatabase;
let config: Config;
let through: Config;
let path: string;
let proxy: TcpProxy;

beforeEach(async () => {
  database = await createDatabase();
  ({ config, path } = testPipeline(database));
  await database.query(SCHEMA);
  proxy = await TcpProxy.before(database.url);
  through = { ...config, source: { ...config.source, url: proxy.through(database.url) } };
});
afterEach(async () => {
  vi.restoreAllMocks();
  await proxy.close();
  await database.drop();
});

async function equal(): Promise<void> {
  expect(await catchUp(config)).toEqual([]);
  expect(await withDuckdb(path, (run) => differences(database.url, run, TABLES))).toEqual([]);
}

describe('a bad wire to PostgreSQL', () => {
  const endWalsender = () =>
    database.query(
      'select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active_pid is not null',
      [database.name],
    );

  it('loses nothing when bytes come in pieces of any size, and late', async () => {
    const random = new Random(11);
    proxy.wire = async (bytes) => {
      const parts: Buffer[] = [];
      for (let at = 0; at < bytes.length; ) {
        const next = at + 1 + random.int(random.int(20) === 0 ? 5 : 2000);
        parts.push(bytes.subarray(at, next));
        at = next;
      }
      // Pieces would be put together again by the kernel if nothing came between.
      await new Promise((resolve) => setTimeout(resolve, random.int(3)));
      return parts;
    };
    await runWorkload(database.url, 1, AbortSignal.timeout(300));
    const running = start(through);
    await runWorkload(database.url, 2, AbortSignal.timeout(1000), 5);
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    await running.stop();
    await equal();
  });

  it('notices a half-open connection by its silence, and goes on over a new one', async () => {
    const running = start(through);
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    await runWorkload(database.url, 3, AbortSignal.timeout(300));
    proxy.freeze();
    await runWorkload(database.url, 4, AbortSignal.timeout(300));
    // The server's own end of it: nobody answers there either.
    await endWalsender();
    await eventually(
      'it reconnects',
      () =>
        (running.pipeline.status().source?.reconnects ?? 0) > 0 && running.pipeline.status().source?.connected === true,
      200_000,
    );
    proxy.cut();
    await running.stop();
    await equal();
  }, 300_000);

  it('notices it in a first copy, which is finished beside the stream', async () => {
    await database.query(
      "create table wide (id int primary key, v text); insert into wide select i, repeat('x', 1000) from generate_series(1, 30000) i",
    );
    const sink = new ModelSink('analytics');
    let frozen = false;
    sink.before = async ({ events }) => {
      if (!frozen && events.some(({ op }) => op === 'r')) {
        frozen = true;
        proxy.freeze();
      }
    };
    const running = start(through, { sinks: [sink] });
    await eventually('frozen', () => frozen);
    await eventually('all rows', () => sink.rows('public.wide')?.length === 30_000, 200_000);
    proxy.cut();
    await running.stop();
  }, 300_000);

  it('notices it in a snapshot beside the stream, which goes on', async () => {
    await database.query(
      "create table wide (id int primary key, v text); insert into wide select i, repeat('x', 1000) from generate_series(1, 20000) i",
    );
    const sink = new ModelSink('analytics');
    const running = start(through, { sinks: [sink] });
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    let frozen = false;
    sink.before = async ({ events }) => {
      if (!frozen && events.some(({ transaction }) => transaction.snapshot?.kind === 'incremental')) {
        frozen = true;
        proxy.freeze();
      }
    };
    await askForSnapshot(database, config, 'wide');
    await eventually('frozen', () => frozen);
    await endWalsender();
    await eventually('the snapshot ends', () => sink.ended.length > 0, 200_000);
    proxy.cut();
    await running.stop();
    await catchUp(config, { sinks: [sink] });
    expect(sink.rows('public.wide')).toHaveLength(20_000);
  }, 300_000);

  it('takes no notice of a clock that jumps, forth and back', async () => {
    const running = start(config);
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    const now = Date.now;
    for (const [seed, jumpMs] of [
      [5, 3_600_000],
      [6, -7_200_000],
      [7, 86_400_000],
    ] as const) {
      vi.spyOn(Date, 'now').mockImplementation(() => now() + jumpMs);
      await runWorkload(database.url, seed, AbortSignal.timeout(300));
      const [{ lsn } = { lsn: '' }] = await database.query('select pg_current_wal_lsn()::text as lsn');
      const target = String(lsn);
      await vi.waitFor(
        async () => {
          const [row] = await database.query(
            'select confirmed_flush_lsn >= $2::pg_lsn as reached from pg_replication_slots where slot_name = $1',
            [database.name, target],
          );
          expect(row?.reached, `after a jump by ${jumpMs} ms`).toBe(true);
        },
        { timeout: 90_000, interval: 100 },
      );
      expect(running.pipeline.status().source?.reconnects).toBe(0);
    }
    vi.restoreAllMocks();
    await running.stop();
    await equal();
  });
});
