import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { parseLsn } from '../../src/event/lsn.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, startPostgres, type TestDatabase } from '../support/postgres.ts';
import { smallDisk } from '../support/small-disk.ts';
import { startWaltide, waltide, writeConfig } from '../support/waltide-process.ts';

/** About 8 MB of changes in one statement: several parts to deliver, and far more than the server keeps in memory. */
const MANY = `insert into big select i, repeat(md5(i::text), 10) from generate_series(1, 20000) i`;
const TABLES = ['public.big', 'public.small'];

let server: EmbeddedPostgres;
let database: TestDatabase;
let writer: pg.Client;

beforeAll(async () => {
  server = await startPostgres({ logical_decoding_work_mem: '64kB', max_prepared_transactions: '10' });
});
afterAll(() => server?.stop());
beforeEach(async () => {
  database = await createDatabase(server.url);
  await database.query('create table big (id int primary key, note text); create table small (id int primary key)');
  writer = new pg.Client({ connectionString: database.url });
  await writer.connect();
});
afterEach(async () => {
  // One that a failed test left would keep every later slot from being made.
  const left = await database.query('select gid from pg_prepared_xacts where database = current_database()');
  for (const { gid } of left) await database.query(`rollback prepared '${gid}'`);
  await writer?.end();
  await database?.drop();
});

const confirmed = async (): Promise<bigint> => {
  const sql = 'select confirmed_flush_lsn lsn from pg_replication_slots where slot_name = $1';
  return parseLsn((await database.query(sql, [database.name]))[0]!.lsn as string);
};
const walEnd = async (): Promise<bigint> =>
  parseLsn((await database.query('select pg_current_wal_insert_lsn() lsn'))[0]!.lsn as string);
const compare = (path: string): Promise<string[]> => withDuckdb(path, (run) => differences(database.url, run, TABLES));

describe('kill -9 with open transactions', () => {
  function prepare(protocol: object): { file: string; spill: string; path: string } {
    const { folder, file } = writeConfig({
      source: {
        ...{ url: database.url, slot: database.name, publication: database.name, tables: ['public.*'] },
        ...{ heartbeatIntervalMs: 200, protocol },
      },
      sinks: [{ name: 'analytics', type: 'duckdb', path: 'target.duckdb' }],
    });
    return { file, spill: join(folder, '.waltide', 'spill'), path: join(folder, 'target.duckdb') };
  }
  const caughtUp = async (file: string): Promise<void> => {
    const { code, stderr } = await waltide(['run', '--until-caught-up', '--config', file]);
    expect(code, stderr).toBe(0);
  };

  it.each(['during-spill@3', 'during-streamed-delivery@2'])(
    'at %s: nothing lost, nothing left behind',
    async (point) => {
      const { file, spill, path } = prepare({ streaming: 'on', memoryBytesMax: 100_000 });
      await caughtUp(file);
      const victim = startWaltide(['run', '--config', file], { WALTIDE_FAILPOINT: point });
      await victim.saw(/streaming/);
      await writer.query('begin');
      await writer.query(MANY);
      await database.query('insert into small values (1)');
      await writer.query(
        'savepoint s; delete from big; rollback to s; update big set note = note where id < 100; commit',
      );
      expect((await victim.finished).signal).toBe('SIGKILL');
      // What the killed process left is there for all to see, until the slot is taken again.
      expect(readdirSync(spill).length).toBe(1);
      await caughtUp(file);
      expect(await compare(path)).toEqual([]);
      expect(existsSync(spill)).toBe(false);
    },
  );

  it('between PREPARE TRANSACTION and COMMIT PREPARED: the slot waits, and nothing is lost', async () => {
    const { file, path } = prepare({ twoPhase: true, memoryBytesMax: 100_000 });
    await caughtUp(file);
    const before = await walEnd();
    const run = async (work: () => Promise<void>): Promise<void> => {
      const process = startWaltide(['run', '--config', file]);
      await process.saw(/streaming/);
      await work();
      process.child.kill('SIGKILL');
      await process.finished;
    };
    let prepared = 0n;
    await run(async () => {
      await writer.query('begin');
      await writer.query(MANY);
      await writer.query(`prepare transaction '${database.name}'`);
      // Not before it: heartbeats write in between, and may well be acknowledged. What must not be is the record's end.
      prepared = await walEnd();
      await writer.query(`begin; insert into small values (9); prepare transaction '${database.name}_void'`);
      await database.query('insert into small values (1)');
      await eventually('it is acknowledged up to the PREPARE', async () => (await confirmed()) > before);
      // Time for more to be acknowledged, were it not held.
      await new Promise((resolve) => setTimeout(resolve, 2500));
    });
    expect(await confirmed()).toBeLessThan(prepared);
    await run(async () => {
      await database.query('insert into small values (2)');
      await database.query(`rollback prepared '${database.name}_void'`);
    });
    await database.query(`commit prepared '${database.name}'`);
    const committed = await walEnd();
    await caughtUp(file);
    expect(await compare(path)).toEqual([]);
    await run(() => eventually('it moves on', async () => (await confirmed()) >= committed));
  });
});

it.each(['a file is in its place', 'the disk is full'])(
  'goes on without streaming where it cannot spill, and says so: %s',
  async (why) => {
    const { config: plain, path } = testPipeline(database);
    const protocol = { ...plain.source.protocol, streaming: 'on' as const, memoryBytesMax: 100_000 };
    const config = { ...plain, source: { ...plain.source, protocol } };
    const spill = join(config.stateDir, 'spill');
    mkdirSync(config.stateDir, { recursive: true });
    let disk: ReturnType<typeof smallDisk> = null;
    if (why === 'the disk is full') {
      mkdirSync(spill);
      disk = smallDisk(spill, '1m');
      if (!disk) throw new Error('mounting a small file system takes root');
    } else writeFileSync(spill, 'a file where a folder should be');
    const running = start(config);
    await eventually('it streams', () => running.pipeline.status().source?.protocol?.streaming === 'on');
    await writer.query(MANY);
    await eventually('it fell back', () => running.pipeline.status().source?.protocol?.streaming === 'off');
    expect(running.pipeline.status().source?.protocol?.degraded).toMatch(/cannot be spilled to .*spill/);
    await running.stop();
    await catchUp(config);
    expect(await compare(path)).toEqual([]);
    disk?.remove();
  },
);

it.each([15, 18] as const)(
  'reads each change of a prepared transaction by what its table was then, though it alters it afterwards: PostgreSQL %i',
  async (version) => {
    const own = await startPostgres({ max_prepared_transactions: '10' }, { version });
    const there = await createDatabase(own.url);
    const client = new pg.Client({ connectionString: there.url });
    try {
      await client.connect();
      await client.query('create table big (id int primary key, note text); alter table big replica identity full');
      const { config, path } = testPipeline(there, {}, { protocol: { twoPhase: true } });
      await client.query("insert into big values (1, 'one'), (2, 'two')");
      await catchUp(config);
      const running = start(config);
      await eventually('it streams', () => running.pipeline.status().source?.connected === true);
      // The server describes the table here, and not again where the transaction begins.
      await client.query("insert into big values (3, 'three')");
      await client.query(
        "begin; update big set note = 'changed' where id = 1; alter table big add column more int default 7",
      );
      await client.query("update big set note = 'more' where id = 2; prepare transaction 'alters'");
      await eventually('it has come', () => running.pipeline.status().source?.protocol?.openTransactions === 1);
      await client.query("commit prepared 'alters'");
      await client.query("insert into big values (4, 'four', 4)");
      await eventually('all of it is applied', () => running.pipeline.status().sinks[0]!.events === 4);
      // Read by what the table became, its first change makes no sense: at best that ends the session.
      expect(running.pipeline.status().source?.reconnects).toBe(0);
      await running.stop();
      expect(await withDuckdb(path, (run) => differences(there.url, run, ['public.big']))).toEqual([]);
    } finally {
      await client.end();
      await own.stop();
    }
  },
);
