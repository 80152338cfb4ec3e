import { afterEach, describe, expect, it } from 'vitest';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import type { WaltideError } from '../../src/errors.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, query, startPostgres, type TestDatabase } from '../support/postgres.ts';
import { STANDBY_SLOT, type Standby, startStandby } from '../support/standby.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

let primary: EmbeddedPostgres | null = null;
let standby: Standby | null = null;

afterEach(async () => {
  await Promise.all([primary?.stop('immediate'), standby?.stop()]);
  primary = standby = null;
});

/** postgres://…@primary,standby/database?target_session_attrs=read-write */
function bothHosts(url: string, second: EmbeddedPostgres): string {
  return `${url.replace(/(127\.0\.0\.1:\d+)/, `$1,127.0.0.1:${second.port}`)}?target_session_attrs=read-write`;
}

function on(server: EmbeddedPostgres, database: TestDatabase): string {
  const url = new URL(database.url);
  url.port = String(server.port);
  return url.href;
}

const refusal = (promise: Promise<unknown>): Promise<WaltideError> =>
  promise.then(
    () => {
      throw new Error('it was not refused');
    },
    (error: WaltideError) => error,
  );

describe('failover', () => {
  it('loses nothing when the primary is killed under load and its standby is promoted', async () => {
    // With this no change leaves through a failover slot before the standby has it.
    primary = await startPostgres({ synchronized_standby_slots: STANDBY_SLOT });
    standby = await startStandby(primary);
    const database = await createDatabase(primary.url);
    await database.query(SCHEMA);
    const url = bothHosts(database.url, standby.server);
    const { config, path } = testPipeline(database, {}, { url, failover: true, connectTimeoutMs: 30_000 });
    const running = start(config);
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    await runWorkload(database.url, 1, AbortSignal.timeout(500));
    await standby.syncSlot(database.name);

    const workload = runWorkload(database.url, 2, new AbortController().signal).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await primary.kill();
    await workload;
    await standby.promote();
    const promoted = on(standby.server, database);
    await runWorkload(promoted, 3, AbortSignal.timeout(500));
    await eventually('it streams again', () => running.pipeline.status().source?.connected === true);
    await running.stop();
    expect(await catchUp(config)).toEqual([]);
    expect(await withDuckdb(path, (run) => differences(promoted, run, TABLES))).toEqual([]);
    // And once more from the new timeline, by itself.
    await runWorkload(promoted, 4, AbortSignal.timeout(300));
    expect(await catchUp({ ...config, source: { ...config.source, url: promoted } })).toEqual([]);
    expect(await withDuckdb(path, (run) => differences(promoted, run, TABLES))).toEqual([]);
  }, 300_000);

  it('refuses to go on after a promotion that lost what the sinks have, and on the old primary when it comes back', async () => {
    primary = await startPostgres({}, { version: 17 });
    standby = await startStandby(primary, { version: 17 });
    const database = await createDatabase(primary.url);
    await database.query('create table t (id int primary key); insert into t values (1)');
    const { config, path } = testPipeline(database, {}, { failover: true });
    const running = start(config);
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    await standby.syncSlot(database.name);
    await running.stop();

    await standby.server.halt();
    await database.query('insert into t values (2)');
    expect(await catchUp(config)).toEqual([]);
    await primary.halt('immediate');
    await standby.server.start();
    await standby.promote();
    const promoted = { ...config, source: { ...config.source, url: on(standby.server, database) } };
    await query(promoted.source.url, 'insert into t select generate_series(3, 2000)');
    const lost = await refusal(catchUp(promoted));
    expect(lost).toMatchObject({ code: 'TIMELINE', message: expect.stringContaining('is lost in the source') });
    // Refused for good, not only once.
    expect(await refusal(catchUp(promoted))).toMatchObject({ code: 'TIMELINE' });
    expect(await catchUp(promoted, { recopy: true })).toEqual([]);
    expect(await withDuckdb(path, (run) => differences(promoted.source.url, run, ['public.t']))).toEqual([]);

    await standby.server.halt();
    await primary.start();
    await database.query('insert into t select generate_series(10000, 40000)');
    const old = await refusal(catchUp(config));
    expect(old).toMatchObject({ code: 'TIMELINE', message: expect.stringContaining('does not come from') });
  }, 300_000);

  it('says on an old server what a promotion has cost', async () => {
    primary = await startPostgres({}, { version: 16 });
    standby = await startStandby(primary, { version: 16 });
    const database = await createDatabase(primary.url);
    await database.query('create table t (id int primary key); insert into t values (1)');
    const { config } = testPipeline(database);
    expect(await refusal(catchUp({ ...config, source: { ...config.source, failover: true } }))).toMatchObject({
      code: 'SOURCE_SETTINGS',
      message: expect.stringContaining('needs PostgreSQL 17'),
    });
    expect(await catchUp(config)).toEqual([]);
    const url = on(standby.server, database);
    await eventually('the standby knows of the copy', async () => {
      const found = await query(url, "select from waltide.slots where state = 'streaming'").catch(() => []);
      return found.length === 1;
    });
    const here = { ...config, source: { ...config.source, url } };
    await primary.kill();
    await standby.promote();
    const gone = await refusal(catchUp(here));
    expect(gone).toMatchObject({ code: 'SLOT_MISSING', message: expect.stringContaining('a standby was promoted at') });
  }, 300_000);
});
