import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { firstCopy } from '../../src/pipeline/first-copy.ts';
import { connectSource } from '../../src/postgres/session.ts';
import { lockSetup } from '../../src/postgres/setup-lock.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, log, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, startPostgres, type TestDatabase } from '../support/postgres.ts';
import { startWaltide, waltide, writeConfig } from '../support/waltide-process.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

describe('two processes that set up one slot', () => {
  it.each([0, 50, 150, 400, 700])(
    'one does it, the other says so, and nothing is half-done (%i ms apart)',
    async (apartMs) => {
      await database.query('create table t (id int primary key); insert into t select generate_series(1, 20000)');
      const projects = [0, 1].map(() =>
        writeConfig({
          source: {
            url: database.url,
            slot: database.name,
            publication: database.name,
            tables: ['public.*'],
            slotWaitMs: 500,
          },
          sinks: [{ name: 'analytics', type: 'duckdb', path: 'target.duckdb' }],
        }),
      );
      const ends = await Promise.all(
        projects.map(async ({ file }, i) => {
          await new Promise((resolve) => setTimeout(resolve, i * apartMs));
          return waltide(['setup', '--config', file]);
        }),
      );
      const won = ends.findIndex(({ code }) => code === 0);
      expect(won, ends.map(({ stderr }) => stderr).join('\n')).toBeGreaterThanOrEqual(0);
      for (const { code, stderr } of ends)
        if (code !== 0) {
          expect(stderr).toMatch(/slot "[^"]+"(:| is in use)/);
          expect(stderr).not.toMatch(/\n\s+at /);
        }
      await database.query('insert into t values (0)');
      for (const { file, folder } of [projects[won]!, ...projects.filter((_, i) => i !== won)]) {
        const { code, stderr } = await waltide(['run', '--until-caught-up', '--config', file]);
        expect(code, stderr).toBe(0);
        const path = `${folder}/target.duckdb`;
        expect(await withDuckdb(path, (run) => differences(database.url, run, ['public.t']))).toEqual([]);
      }
    },
    300_000,
  );
});

it('goes on where the one before it ended, having waited for the slot', async () => {
  await database.query('create table t (id int primary key); insert into t values (1)');
  const { url, name } = database;
  const { file, folder } = writeConfig({
    source: { url, slot: name, publication: name, tables: ['public.*'], heartbeatIntervalMs: 200 },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'target.duckdb' }],
  });
  const first = startWaltide(['run', '--config', file]);
  await first.saw(/streaming/);
  const second = startWaltide(['run', '--config', file]);
  await second.saw(/slot is in use/);
  // The sink goes far beyond where the WAL ended when the second came.
  await database.query('insert into t select generate_series(2, 20000)');
  await eventually('the first applies it', async () => {
    const { stdout } = await waltide(['query', 'select count(*)::int as n from t', '--json', '--config', file]);
    return stdout.includes('20000');
  });
  first.child.kill('SIGTERM');
  expect((await first.finished).code).toBe(0);
  await second.saw(/streaming/);
  await database.query('insert into t values (0)');
  second.child.kill('SIGTERM');
  const { code, stderr } = await second.finished;
  expect(code, stderr).toBe(0);
  expect((await waltide(['run', '--until-caught-up', '--config', file])).code).toBe(0);
  const path = `${folder}/target.duckdb`;
  expect(await withDuckdb(path, (run) => differences(database.url, run, ['public.t']))).toEqual([]);
});

it('does not copy again what another process has copied since it looked at the slot', async () => {
  await database.query('create table t (id int primary key); insert into t values (1)');
  const { config } = testPipeline(database);
  await catchUp(config);
  const slot = () =>
    database.query('select restart_lsn from pg_replication_slots where slot_name = $1', [database.name]);
  const before = await slot();
  const late = firstCopy(
    {
      ...{ config, log, tables: [], dropSlot: true, again: true, onProgress: () => {} },
      seen: { state: 'copying', consistentPoint: null, tables: [] },
      // Never come to: it is refused before.
      keeper: undefined as never,
      publish: async () => {},
      durable: async () => {},
    },
    AbortSignal.timeout(60_000),
  );
  await expect(late).rejects.toMatchObject({ code: 'SLOT_IN_USE', message: expect.stringContaining('just now') });
  expect(before).toHaveLength(1);
  expect(await slot()).toEqual(before);
});

it('streams nothing while another process still copies what the slot began with', async () => {
  await database.query('create table t (id int primary key); insert into t values (1)');
  const { config } = testPipeline(database, {}, { slotWaitMs: 300 });
  await catchUp(config);
  // As the other one leaves them while it copies: nobody holds the slot then.
  await database.query("update waltide.slots set state = 'copying' where slot_name = $1", [database.name]);
  const other = await connectSource(config.source, 'control');
  await lockSetup(other, database.name);
  await database.query('insert into t values (2)');
  const acknowledged = () =>
    database.query('select confirmed_flush_lsn from pg_replication_slots where slot_name = $1', [database.name]);
  const before = await acknowledged();
  await expect(catchUp(config)).rejects.toMatchObject({
    code: 'SLOT_IN_USE',
    message: expect.stringContaining('copies every table'),
  });
  expect(await acknowledged()).toEqual(before);
  await other.end();
  await catchUp(config);
  expect(await acknowledged()).not.toEqual(before);
});

it('stops quickly while the server is away', async () => {
  const server = await startPostgres();
  const own = await createDatabase(server.url);
  await own.query('create table t (id int primary key); insert into t values (1)');
  const { config, path } = testPipeline(own, {}, { connectTimeoutMs: 600_000 });
  const running = start(config);
  await eventually('it streams', () => running.pipeline.status().source?.connected === true);
  await own.query('insert into t values (2)');
  await server.kill();
  await new Promise((resolve) => setTimeout(resolve, 1500));
  let stopped = false;
  const stopping = running.stop().then(() => (stopped = true));
  // Far less than it would wait for an answer.
  await eventually('it has stopped', () => stopped, 40_000);
  await stopping;
  await server.start();
  expect(await catchUp(config)).toEqual([]);
  expect(await withDuckdb(path, (run) => differences(own.url, run, ['public.t']))).toEqual([]);
  await server.stop();
});
