import { type AddressInfo, connect, createServer } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { examine } from '../../src/cli/commands/doctor.ts';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import type { WaltideError } from '../../src/errors.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, query, startPostgres, type TestDatabase } from '../support/postgres.ts';
import { askForSnapshot } from '../support/snapshots.ts';
import { type Standby, startStandby } from '../support/standby.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

/*
 * Goal: with the slot on a standby nothing is lost and nothing is written there. Method: two real servers; the target is
 * compared with the primary, value by value.
 */
let primary: EmbeddedPostgres;
let standby: Standby;

beforeAll(async () => {
  primary = await startPostgres();
  standby = await startStandby(primary);
});
afterAll(() => Promise.all([primary.stop('immediate'), standby.stop()]));

function on(server: EmbeddedPostgres, database: TestDatabase): string {
  const url = new URL(database.url);
  url.port = String(server.port);
  return url.href;
}

async function database(): Promise<TestDatabase> {
  const made = await createDatabase(primary.url);
  await eventually('the standby has the database', async () => {
    const found = await query(standby.server.url, 'select from pg_database where datname = $1', [made.name]);
    return found.length === 1;
  });
  return made;
}

const refusal = (promise: Promise<unknown>): Promise<WaltideError> =>
  promise.then(
    () => {
      throw new Error('it was not refused');
    },
    (error: WaltideError) => error,
  );

describe('a slot on a standby', () => {
  it('copies, streams, restarts, and fills tables beside the stream, writing on the primary alone', async () => {
    const made = await database();
    await made.query(SCHEMA);
    await runWorkload(made.url, 1, AbortSignal.timeout(500));
    const { config, path } = testPipeline(
      made,
      { snapshot: { chunkRows: 100, tablesIntervalMs: 300 } },
      { url: on(standby.server, made), primaryUrl: made.url },
    );
    const compare = (): Promise<string[]> =>
      withDuckdb(path, (run) => differences(made.url, run, [...TABLES, 'public.later']));
    const writing = new AbortController();
    const workload = runWorkload(made.url, 2, writing.signal);
    let running = start(config);
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    const slots = (server: EmbeddedPostgres): Promise<unknown[]> =>
      query(server.url, 'select from pg_replication_slots where slot_name = $1', [made.name]);
    expect([await slots(primary), await slots(standby.server)].map(({ length }) => length)).toEqual([0, 1]);
    await made.query(
      'create table later (id int primary key, v text); insert into later select i from generate_series(1, 500) i',
    );
    await askForSnapshot(made, config, TABLES[0]!.split('.')[1]!);
    await new Promise((resolve) => setTimeout(resolve, 2000));
    await running.stop();
    running = start(config);
    await eventually('it streams again', () => running.pipeline.status().source?.connected === true);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    writing.abort();
    await workload;
    const before = running.pipeline.status().source?.acknowledgedLsn;
    await eventually('heartbeats go round while it is idle', () => {
      const now = running.pipeline.status().source?.acknowledgedLsn;
      return now !== undefined && before !== undefined && BigInt(parse(now)) > BigInt(parse(before));
    });
    await running.stop();
    expect(await catchUp(config)).toEqual([]);
    expect(await compare()).toEqual([]);
    expect(
      (await made.query("select from waltide.snapshots where state <> 'completed'")).length,
      'snapshots that have not ended',
    ).toBe(0);
    const failed = (await examine(config)).filter(({ status }) => status === 'fail');
    expect(failed).toEqual([]);
    await made.query('insert into later values (1000, $1)', ['x']);
    expect(await catchUp(config, { recopy: true })).toEqual([]);
    expect(await compare()).toEqual([]);
  }, 180_000);

  it('is refused where the servers do not play these parts, before anything is made', async () => {
    const made = await database();
    await made.query('create table t (id int primary key)');
    const config = (source: object) => testPipeline(made, {}, source).config;
    const here = on(standby.server, made);
    for (const [source, message] of [
      [{ url: here }, /source\.url is a standby/],
      [{ url: here, primaryUrl: here }, /source\.primaryUrl is a standby/],
      [{ url: here, primaryUrl: made.url, failover: true }, /source\.failover is not possible/],
    ] as const)
      expect(await refusal(catchUp(config(source)))).toMatchObject({
        code: 'SOURCE_SETTINGS',
        message: expect.stringMatching(message),
      });
    expect(await made.query("select from pg_namespace where nspname = 'waltide'")).toEqual([]);
  });

  it('a balancer between the two is noticed at the start', async () => {
    const made = await database();
    await made.query('create table t (id int primary key)');
    const ports = [primary.port, standby.server.port];
    let turn = 0;
    const balancer = createServer((client) => {
      const server = connect(ports[turn++ % 2]!, '127.0.0.1');
      for (const [from, to] of [
        [client, server],
        [server, client],
      ] as const)
        from.on('error', () => to.destroy()).pipe(to);
    });
    await new Promise<void>((resolve) => balancer.listen(0, '127.0.0.1', resolve));
    const url = new URL(made.url);
    url.port = String((balancer.address() as AddressInfo).port);
    const error = await refusal(catchUp(testPipeline(made, {}, { url: `${url.href}?sslmode=disable` }).config));
    balancer.close();
    expect(error).toMatchObject({
      code: 'SOURCE_SETTINGS',
      message: expect.stringMatching(/servers of one cluster|is a standby/),
    });
    expect(await made.query("select from pg_namespace where nspname = 'waltide'")).toEqual([]);
  });

  it('lives on where the standby is promoted, and says what to change', async () => {
    const made = await database();
    await made.query('create table t (id int primary key); insert into t values (1)');
    const { config, path } = testPipeline(made, {}, { url: on(standby.server, made), primaryUrl: made.url });
    expect(await catchUp(config)).toEqual([]);
    await made.query('insert into t values (2)');
    await eventually(
      'the standby has it',
      async () => (await query(on(standby.server, made), 'select from t')).length === 2,
    );
    await standby.promote();
    expect(await refusal(catchUp(config))).toMatchObject({ message: expect.stringMatching(/it was promoted/) });
    const promoted = { ...config, source: { ...config.source, primaryUrl: undefined } };
    await query(promoted.source.url, 'insert into t values (3)');
    expect(await catchUp(promoted)).toEqual([]);
    expect(await withDuckdb(path, (run) => differences(promoted.source.url, run, ['public.t']))).toEqual([]);
  }, 300_000);
});

/** An LSN as a number, in decimal digits. */
function parse(lsn: string): string {
  const [high, low] = lsn.split('/') as [string, string];
  return String((BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`));
}
