import { copyFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { parseLsn } from '../../src/event/lsn.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, startPostgres, type TestDatabase } from '../support/postgres.ts';

/** Of its own: on the shared one others write WAL, which is held back as well. */
let server: Awaited<ReturnType<typeof startPostgres>>;
let database: TestDatabase;

beforeAll(async () => {
  server = await startPostgres();
});
afterAll(() => server.stop());

beforeEach(async () => {
  database = await createDatabase(server.url);
  await database.query('create table t (id int primary key, body text)');
});
afterEach(() => database.drop());

const configured = (retain: Config['source']['retain']): { config: Config; path: string } =>
  testPipeline(database, {}, { retain, walBudget: { intervalMs: 200 } });

const slot = async (): Promise<{ confirmed: bigint; behind: number }> => {
  const [row] = await database.query(
    `select confirmed_flush_lsn::text as confirmed, pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::float8 as behind
     from pg_replication_slots where slot_name = $1`,
    [database.name],
  );
  return { confirmed: parseLsn(row!.confirmed as string), behind: row!.behind as number };
};

const write = (from: number, to: number): Promise<unknown> =>
  database.query("insert into t select i, repeat('x', 1000) from generate_series($1::int, $2::int) i", [from, to]);

describe('source.retain', () => {
  it('holds the slot back by as much as is asked, no more, and without a lag', async () => {
    const { config } = configured({ bytes: 300_000 });
    await catchUp(config);
    const running = start(config);
    try {
      for (let i = 0; i < 5; i++) await write(i * 1000, i * 1000 + 999);
      const [row] = await database.query('select pg_current_wal_lsn()::text as lsn');
      const end = parseLsn(row!.lsn as string);
      await eventually('all is durable', () => parseLsn(running.pipeline.status().source!.durableLsn) >= end);
      await eventually('the slot has followed', async () => (await slot()).behind < 400_000);
      const { behind } = await slot();
      expect(behind).toBeGreaterThan(250_000);
      const { source, sinks } = running.pipeline.status();
      expect(source!.heldBytes).toBeGreaterThan(250_000);
      expect(source!.heldBytes).toBeLessThanOrEqual(300_000);
      expect(source!.lagBytes).toBeLessThan(100_000);
      expect(sinks[0]!.lagBytes).toBeLessThan(100_000);
    } finally {
      await running.stop();
    }
  });

  it('lets go after the time', async () => {
    const { config } = configured({ bytes: 1e9, hours: 15 / 3600 });
    await catchUp(config);
    const running = start(config);
    try {
      await write(1, 1000);
      await eventually('it is held', () => running.pipeline.status().source!.heldBytes > 500_000);
      await eventually('it is let go', async () => (await slot()).behind < 100_000, 90_000);
    } finally {
      await running.stop();
    }
  });

  it('lets go of nothing because the clock jumps', async () => {
    const { config } = configured({ bytes: 1e9, hours: 1 });
    await catchUp(config);
    const running = start(config);
    try {
      await write(1, 1000);
      await eventually('it is held', () => running.pipeline.status().source!.heldBytes > 500_000);
      const now = Date.now;
      vi.spyOn(Date, 'now').mockImplementation(() => now() + 7_200_000);
      await write(1001, 1010);
      const [row] = await database.query('select pg_current_wal_lsn()::text as lsn');
      await eventually(
        'it is durable',
        () => parseLsn(running.pipeline.status().source!.durableLsn) >= parseLsn(row!.lsn as string),
      );
      expect(running.pipeline.status().source!.heldBytes).toBeGreaterThan(500_000);
    } finally {
      vi.restoreAllMocks();
      await running.stop();
    }
  });

  it('neither streams again what every sink has, nor loses what one has not', async () => {
    const { config } = configured({ bytes: 1e9 });
    const first = new MemorySink('first');
    await catchUp(config, { sinks: [first] });
    await write(1, 500);
    await catchUp(config, { sinks: [first] });
    const running = start(config, { sinks: [first] });
    await write(501, 510);
    await eventually('it came', () => first.events.length >= 510);
    // Five hundred events lie behind the acknowledged position; they did not come again.
    expect(running.pipeline.status().source!.events).toBeLessThan(20);
    await running.stop();
    expect(first.events.filter(({ op }) => op === 'c').map(({ key }) => Number(key))).toEqual(
      Array.from({ length: 510 }, (_, i) => i + 1),
    );
  });

  it('lets a sink file restored from a backup go on from its own offset, and says so; refuses it where that is gone', async () => {
    const { config, path } = configured({ bytes: 1e9 });
    await catchUp(config);
    await write(1, 10);
    await catchUp(config);
    copyFileSync(path, `${path}.backup`);
    await write(11, 20);
    await catchUp(config);
    copyFileSync(`${path}.backup`, path);
    const { withDuckdb } = await import('../support/compare.ts');
    const count = () => withDuckdb(path, (run) => run('select count(*)::int from t'));
    expect(await count()).toEqual([[10]]);
    await catchUp(config);
    expect(await count()).toEqual([[20]]);

    copyFileSync(`${path}.backup`, path);
    const without = { ...config, source: { ...config.source, retain: undefined } };
    const { confirmed } = await slot();
    await database.query('select pg_replication_slot_advance($1, pg_current_wal_lsn())', [database.name]);
    expect((await slot()).confirmed).toBeGreaterThan(confirmed);
    await expect(catchUp(without)).rejects.toMatchObject({
      code: 'SLOT_AHEAD',
      help: expect.stringMatching(/was at .* restored from an older backup/),
    });
  });
});
