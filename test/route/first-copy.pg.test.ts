import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { differences, withDuckdb } from '../support/compare.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { catchUp, eventually, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

describe('the first copy', () => {
  let database: TestDatabase;
  beforeEach(async () => {
    database = await createDatabase();
  });
  afterEach(() => database.drop());

  it('reads several tables at once within a small budget, and a large one in ranges of blocks', async () => {
    const { config, path } = testPipeline(database, {
      transport: { type: 'in-process', inFlightBytesMax: 500_000 },
      snapshot: { workers: 3 },
    });
    await database.query(
      `create table wide (id int primary key, body char(7000)); alter table wide alter body set storage plain;
       insert into wide select i, 'x' from generate_series(1, 17000) i`,
    );
    for (const name of ['a', 'b', 'c'])
      await database.query(
        `create table ${name} (id int primary key, body text); insert into ${name} select i, repeat('y', 200) from generate_series(1, 3000) i`,
      );
    const [{ blocks }] = (await database.query(`select pg_relation_size('wide') / 8192 as blocks`)) as [
      { blocks: string },
    ];
    // More than one unit of work.
    expect(Number(blocks)).toBeGreaterThan(13_000);
    expect(await catchUp(config)).toEqual([]);
    await withDuckdb(path, async (query) => {
      expect(await differences(database.url, query, ['public.a', 'public.b', 'public.c'])).toEqual([]);
      expect(await query('select count(*), sum(id), count(distinct id), min(length(body)) from wide')).toEqual([
        [17000n, 144508500n, 17000n, 7000n],
      ]);
    });
  });

  it('ends with the reason where what it has copied cannot be recorded, not with an unhandled rejection', async () => {
    const sink = new MemorySink();
    const { config } = testPipeline(database, { sinks: [], snapshot: { workers: 1 } });
    await database.query('create table a (id int primary key); insert into a select generate_series(1, 150000)');
    await database.query('create table b (id int primary key); insert into b select generate_series(1, 100000)');
    await database.query('create sequence refused');
    let armed = false;
    sink.before = async ({ events }) => {
      const tables = new Set(events.map(({ relation }) => relation?.table));
      if (tables.has('a') && !armed) {
        armed = true;
        await database.query(
          `create or replace function refuse() returns trigger language plpgsql as 'begin perform nextval(''public.refused''); raise ''no''; end';
           create or replace trigger refuse before update on waltide.slots for each row execute function public.refuse()`,
        );
      } else if (tables.has('b') && armed)
        await eventually(
          'refused',
          async () => (await database.query('select is_called from refused'))[0]!.is_called === true,
        );
    };
    await expect(catchUp(config, { sinks: [sink] })).rejects.toMatchObject({ code: 'SOURCE_QUERY' });
  });
});
