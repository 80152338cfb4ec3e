import { afterEach, describe, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, type RunningPipeline, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedPostgres } from '../support/shared-postgres.ts';

/* A publication that somebody alters, or may not be altered, while its changes are streamed. */
let database: TestDatabase;
let config: Config;
let path: string;
let running: RunningPipeline | null = null;

afterEach(async () => {
  await running?.stop().catch(() => {});
  running = null;
  await database.drop();
});

async function begin(url: string | undefined = undefined, ddl = ''): Promise<void> {
  database = await createDatabase(url);
  await database.query(
    `create table t (id int primary key, n int); insert into t select i, 0 from generate_series(1, 200) i; ${ddl}`,
  );
  ({ config, path } = testPipeline(database, { snapshot: { tablesIntervalMs: 150 } }));
}

async function stream(): Promise<void> {
  running = start(config);
  await eventually('it streams', () => running!.pipeline.status().source?.connected === true);
}

const completed = (): Promise<void> =>
  eventually('filled again', async () => {
    const [row] = await database.query(
      "select count(*)::int as n, bool_and(state = 'completed') as done from waltide.snapshots where table_name = 't'",
    );
    return (row!.n as number) > 0 && row!.done === true;
  });

async function equal(tables: readonly string[]): Promise<void> {
  await running?.stop();
  running = null;
  expect(await catchUp(config)).toEqual([]);
  expect(await withDuckdb(path, (query) => differences(database.url, query, tables))).toEqual([]);
}

describe('a publication of ours', () => {
  it('that was narrowed by hand is set back, and what was missed is filled again', async () => {
    await begin();
    await stream();
    await database.query(
      `alter publication ${database.name} set (publish = 'insert', publish_via_partition_root = false); update t set n = 1 where id <= 50`,
    );
    await eventually('set back', async () => {
      const [row] = await database.query(
        'select pubupdate and pubdelete and pubtruncate and pubviaroot as whole from pg_publication where pubname = $1',
        [database.name],
      );
      return row!.whole === true;
    });
    await completed();
    await database.query('update t set n = 2 where id > 190; delete from t where id = 100');
    await equal(['public.t']);
  });

  it('takes in what its role owns, and leaves out the rest', async () => {
    await begin();
    const role = `r_${database.name}`;
    await database.query(
      `create role ${role} login replication password 'x'; alter table t owner to ${role}; grant create on database ${database.name} to ${role}`,
    );
    try {
      const url = new URL(database.url);
      url.username = role;
      url.password = 'x';
      config = { ...config, source: { ...config.source, url: url.href } };
      await stream();
      await database.query(
        `create table foreign_t (id int primary key); grant select on foreign_t to ${role};
         create table mine (id int primary key); alter table mine owner to ${role}`,
      );
      await eventually('published', async () => {
        const rows = await database.query("select from pg_publication_tables where tablename = 'mine'");
        return rows.length === 1;
      });
      await database.query('insert into mine values (1); insert into foreign_t values (1); update t set n = 5');
      await equal(['public.t', 'public.mine']);
      await database.query('insert into mine values (2)');
      await equal(['public.t', 'public.mine']);
      expect(
        await withDuckdb(path, (query) =>
          query("select count(*)::int from duckdb_tables() where table_name = 'foreign_t'"),
        ),
      ).toEqual([[0]]);
    } finally {
      await running?.stop().catch(() => {});
      running = null;
      await database.query(`drop owned by ${role} cascade`);
      await database.query(`drop role ${role}`);
    }
  });

  it('that was dropped is made anew, and what was missed is filled again: PostgreSQL 18', async () => {
    await begin();
    await stream();
    await database.query(`begin; drop publication ${database.name}; update t set n = 1 where id <= 50; commit`);
    await completed();
    await database.query('update t set n = 2 where id > 190; delete from t where id = 100');
    await equal(['public.t']);
  });

  it('that was dropped ends the run, since the server cannot decode without it, and one command recovers: PostgreSQL 17', async () => {
    await begin(await ensureSharedPostgres(17));
    await stream();
    await database.query(`begin; drop publication ${database.name}; update t set n = 1 where id <= 50; commit`);
    await expect(running!.finished).rejects.toMatchObject({
      code: 'PUBLICATION',
      help: expect.stringContaining('waltide run --recopy'),
    });
    running = null;
    await catchUp(config, { recopy: true });
    await database.query('update t set n = 2 where id > 190');
    await equal(['public.t']);
  });
});
