import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, query, startPostgres, type TestDatabase } from '../support/postgres.ts';

/*
 * Goal: WAL that does not concern us is not retained for us: that of other tables, of another database, and of large
 * checkpoints. Method: 20 s of it on a real server, with a quick sink and with one that takes half a second over
 * everything; what the slots retain must not grow with what is written.
 */
let server: EmbeddedPostgres;
let database: TestDatabase;
let other: TestDatabase;
const MB = 1024 * 1024;
const DURATION_MS = 20_000;
/** What is written at least: far more than either slot may be behind for a moment. */
const WRITTEN_MIN = 200 * MB;

beforeAll(async () => {
  server = await startPostgres({ max_wal_size: '64MB', min_wal_size: '32MB' });
  database = await createDatabase(server.url);
  other = await createDatabase(server.url);
  await database.query('create table t (id int primary key)');
  for (const one of [database, other])
    await one.query('create table noise (id int, body text); alter table noise alter body set storage external');
});
afterAll(() => server.stop());

const wal = async (): Promise<number> =>
  (await query(server.url, "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 as at"))[0]!.at as number;

interface Retained {
  readonly slot: string;
  readonly unread: number;
  readonly retained: number;
}

async function retained(): Promise<Retained[]> {
  const rows = await query(
    server.url,
    `select slot_name as slot, pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::float8 as unread,
            pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 as retained from pg_replication_slots`,
  );
  return rows as unknown as Retained[];
}

describe('an idle database', { timeout: 300_000 }, () => {
  it('retains no WAL of other tables, other databases and checkpoints, with a quick sink and with a slow one', async () => {
    const slow = new MemorySink('slow');
    slow.before = () => new Promise((resolve) => setTimeout(resolve, 500));
    const pipelines = [
      { ...testPipeline(database, {}, { tables: ['public.t'] }), sinks: [] },
      {
        ...testPipeline(
          database,
          { sinks: [] },
          { tables: ['public.t'], slot: `${database.name}_slow`, publication: `${database.name}_slow` },
        ),
        sinks: [slow],
      },
    ];
    for (const { config, sinks } of pipelines) await catchUp(config, { sinks });
    const running = pipelines.map(({ config, sinks }) => start(config, { sinks }));
    try {
      const began = await wal();
      const samples: Retained[] = [];
      for (const until = Date.now() + DURATION_MS; Date.now() < until || (await wal()) - began < WRITTEN_MIN; ) {
        const noise = "insert into noise select i, repeat('x', 8000) from generate_series(1, 600) i";
        await Promise.all([database.query(noise), other.query(noise)]);
        await database.query('update noise set id = id + 1 where id % 7 = 0');
        await query(server.url, 'checkpoint');
        samples.push(...(await retained()));
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
      const written = (await wal()) - began;
      const most = (slot: string): number =>
        Math.max(...samples.filter((sample) => sample.slot === slot).map((sample) => sample.retained));
      const slots = pipelines.map(({ config }) => config.source.slot);
      // A loaded machine may be some seconds behind; what would be held for ever is all that was written.
      for (const slot of slots) expect(most(slot)).toBeLessThan(written / 2);
      await eventually('both slots are near the end', async () => {
        await query(server.url, 'checkpoint');
        return (await retained()).every((slot) => slot.unread < 2 * MB && slot.retained < 20 * MB);
      });
      console.info(
        `${Math.round(written / MB)} MB written; retained at most ${slots.map((slot) => `${Math.round(most(slot) / MB)} MB`).join(' and ')}`,
      );
    } finally {
      for (const one of running) await one.stop();
    }
  });
});
