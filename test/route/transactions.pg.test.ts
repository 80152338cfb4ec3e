import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';

let database: TestDatabase;
let config: Config;
let path: string;

/** Batches so small that a large transaction takes many. */
beforeEach(async () => {
  database = await createDatabase();
  ({ config, path } = testPipeline(database));
  const [sink] = config.sinks;
  config = { ...config, sinks: [{ ...sink!, batch: { ...sink!.batch, rowsMax: 500 } }] };
});
afterEach(() => database.drop());

const compare = (tables: readonly string[]): Promise<string[]> =>
  withDuckdb(path, (query) => differences(database.url, query, tables));

it('money that moves between two tables is never seen twice or nowhere', { timeout: 300_000 }, async () => {
  await database.query(`
    create table checking (id int primary key, balance bigint); create table saving (id int primary key, balance bigint);
    insert into checking select i, 1000 from generate_series(1, 5000) i; insert into saving select i, 1000 from generate_series(1, 5000) i`);
  const seed = Math.floor(Math.random() * 1e6);
  console.info(`transfers: seed ${seed}`);
  const random = new Random(seed);
  await catchUp(config);
  const { pipeline, stop } = start(config);
  await eventually('streaming', () => pipeline.status().ready);
  const ask = async (sql: string): Promise<unknown> =>
    (await pipeline.query(sql, { rowsMax: 1, timeoutMs: 60_000 })).rows[0]![0];
  const seen = new Set<unknown>();
  let done = false;
  let looks = 0;
  const reading = (async () => {
    for (; !done; looks++)
      seen.add(await ask('select ((select sum(balance) from checking) + (select sum(balance) from saving))::bigint'));
  })();
  for (let i = 0; i < 30; i++) {
    const count = random.next() < 0.5 ? 1 + random.int(10) : 1 + random.int(5000);
    await database.query(`
      begin; update checking set balance = balance - 7 where id <= ${count};
      update saving set balance = balance + 7 where id <= ${count}; commit`);
  }
  await database.query('insert into saving values (0, 0)');
  await eventually('everything applied', async () => (await ask('select count(*)::int from saving')) === 5001);
  done = true;
  await reading;
  await stop();
  expect(looks).toBeGreaterThan(10);
  expect([...seen]).toEqual(['10000000']);
  expect(await compare(['public.checking', 'public.saving'])).toEqual([]);
});

it('a table that cannot be held is set aside in the middle of a large transaction, and the rest of it applied', async () => {
  await database.query('create table good (id int primary key, v text); create table bad (id int primary key, v text)');
  await database.query("insert into good values (0, 'a'); insert into bad values (0, 'a')");
  await catchUp(config);
  const { pipeline, stop } = start(config);
  await eventually('streaming', () => pipeline.status().ready);
  await database.query(`
    begin; insert into good select i, 'b' from generate_series(1, 20000) i; insert into bad select i, 'b' from generate_series(1, 20000) i;
    alter table bad add column "V" text; insert into bad values (30000, 'c', 'C'); insert into good values (30000, 'c'); commit`);
  await eventually('set aside, and begun again', () => {
    const { state, sinks } = pipeline.status();
    return state === 'streaming' && sinks[0]?.stopped[0]?.name === 'public.bad';
  });
  await database.query("insert into good values (40000, 'd')");
  await eventually('the rest', async () => {
    const { rows } = await pipeline
      .query('select count(*)::int from good', { rowsMax: 1, timeoutMs: 10_000 })
      .catch(() => ({ rows: [[0]] }));
    return rows[0]![0] === 20_003;
  });
  await stop();
  expect(await compare(['public.good'])).toEqual([]);
  expect(await withDuckdb(path, (query) => query('select id, v from bad'))).toEqual([[0, 'a']]);
});
