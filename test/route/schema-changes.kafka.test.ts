import { afterEach, beforeEach, expect, it } from 'vitest';
import { parseLsn } from '../../src/event/lsn.ts';
import { connect } from '../../src/postgres/connection.ts';
import { installDdlCapture } from '../../src/postgres/ddl-capture.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { SchemaWorkload } from '../support/schema-workload.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

it.each([1, 3])(
  'schema changes go through Kafka with %i partitions, and tables keep their topic',
  async (partitions) => {
    const brokers = await ensureSharedKafka();
    const { config, path } = testPipeline(database, {
      transport: { type: 'kafka', brokers, topicPrefix: database.name, partitions },
      snapshot: { tablesIntervalMs: 300 },
    });
    const source = 'select i, i, i::text from generate_series(1, 500) i';
    await database.query(`create table a (id int primary key, n int, t text); insert into a ${source}`);
    await database.query(`create table c (id int primary key, n int, t text); insert into c ${source}`);
    await catchUp(config);
    const client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
    await installDdlCapture(client).finally(() => client.end());
    const capture = start(config, { role: 'capture' });
    const apply = start(config, { role: 'apply' });
    try {
      for (const statement of [
        "alter table a add d text default 'x'; insert into a select i, i, i::text, 'y' from generate_series(501, 600) i",
        'alter table a rename n to m; update a set m = m + 1 where id % 3 = 0',
        'alter table a rename to b; update b set m = -m where id % 5 = 0; delete from b where id % 7 = 0',
        'alter table b alter m type bigint; update b set m = m + 10000000000 where id % 11 = 0',
        // Only a new copy can follow these.
        'alter table b alter t type int using t::int + 1; update b set t = 0 where id % 13 = 0',
        'alter table c add u uuid default gen_random_uuid(); update c set n = 0 where id % 2 = 0',
        // The name is taken again, by another table.
        `create table a (id int primary key, n int, t text); insert into a ${source}; delete from a where id % 2 = 0`,
      ]) {
        await database.query(`begin; ${statement}; commit`);
        await new Promise((resolve) => setTimeout(resolve, 300));
      }
      const [{ lsn } = {}] = await database.query('select pg_current_wal_insert_lsn()::text as lsn');
      await eventually('it applies', () => apply.pipeline.status().ready);
      // What is whole before all of it has come may have to be copied again.
      const all = await apply.pipeline.waitFor(parseLsn(lsn as string), { timeoutMs: 120_000 });
      expect(all.reached).toBe(true);
      const whole = "select count(*) from _waltide.tables where state = 'streaming' and table_name in ('a', 'b', 'c')";
      await eventually('every table is whole', async () => {
        const { rows } = await apply.pipeline.query(whole, { rowsMax: 1, timeoutMs: 60_000 });
        return String(rows[0]?.[0]) === '3';
      });
    } finally {
      await capture.stop();
      await apply.stop();
    }
    expect(await catchUp(config)).toEqual([]);
    const tables = ['public.a', 'public.b', 'public.c'];
    expect(await withDuckdb(path, (query) => differences(database.url, query, tables))).toEqual([]);
  },
);

const SEED = Number(process.env.WALTIDE_SCHEMA_SEED ?? Date.now() % 100_000);

it.each([SEED, SEED + 1])(
  'the target equals the source after a random series of schema changes (seed %i)',
  async (seed) => {
    const brokers = await ensureSharedKafka();
    const workload = await SchemaWorkload.start(database.url, seed, true);
    const { config, path } = testPipeline(database, {
      transport: { type: 'kafka', brokers, topicPrefix: database.name, partitions: 1 + (seed % 2) * 2 },
    });
    try {
      await catchUp(config);
      const client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
      await installDdlCapture(client).finally(() => client.end());
      for (let round = 0; round < 3; round++) {
        await workload.run(15);
        expect(await catchUp(config), workload.statements.join(';\n')).toEqual([]);
        const tables = (await workload.tables()).map(({ name }) => name.replaceAll('"', ''));
        const found = await withDuckdb(path, (query) => differences(database.url, query, tables)).catch(String);
        expect(found, `seed ${seed}\n${workload.statements.join(';\n')}`).toEqual([]);
      }
    } finally {
      await workload.end();
    }
  },
);
