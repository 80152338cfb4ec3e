import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { connect } from '../../src/postgres/connection.ts';
import { installDdlCapture } from '../../src/postgres/ddl-capture.ts';
import { withDuckdb } from '../support/compare.ts';
import { held, printed } from '../support/every-value.ts';
import { catchUp, eventually, log, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

/* What kinds of tables there are, and what one can do to them. PostgreSQL is the oracle, row by row. */

let database: TestDatabase;
let config: Config;
let path: string;

beforeEach(async () => {
  database = await createDatabase();
  ({ config, path } = testPipeline(database));
});
afterEach(() => {
  vi.restoreAllMocks();
  return database.drop();
});

/** Applies what happened so far, then compares whole tables of schema public whose first column is `id`. */
async function same(step: string, ...tables: string[]): Promise<void> {
  expect(await catchUp(config), step).toEqual([]);
  for (const table of tables) {
    const { rows } = await held(path, table);
    expect(rows, `${table} after ${step}`).toEqual(await printed(database.url, table));
  }
}

const rows = (sql: string): Promise<readonly (readonly unknown[])[]> => withDuckdb(path, (query) => query(sql));

async function installTrigger(): Promise<void> {
  const client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
  await installDdlCapture(client).finally(() => client.end());
}

describe('replica identities', () => {
  it('change in mid-stream, between default, full, index and nothing', async () => {
    await database.query(
      `create table t (id int primary key, code text not null unique, body text, tags text[], doc jsonb);
       alter table t alter body set storage external, alter tags set storage external, alter doc set storage external;
       insert into t select i, 'c' || i, repeat('b', 5000) || i, array[repeat('t', 5000), null], jsonb_build_object('k', repeat('d', 5000), 'i', i)
         from generate_series(1, 12) i`,
    );
    await same('the copy', 't');
    const identities = [
      'full',
      'using index t_code_key',
      'default',
      'nothing',
      'full',
      'default',
      'using index t_code_key',
    ];
    for (const [round, identity] of identities.entries()) {
      // One transaction brings changes under the old identity and under the new.
      const update =
        identity === 'nothing'
          ? `insert into t values (${200 + round}, 'n${round}', 'x', '{}', null)`
          : `update t set code = code || 'x' where id % 4 = 1; update t set id = id + 1000 where id = ${round + 2}; update t set doc = '1' where id = 12;
             update t set id = -id, code = code || 'y', tags = '{a}' where id % 5 = 0; delete from t where id = ${round - 5}`;
      const before =
        round > 0 && identities[round - 1] === 'nothing'
          ? ''
          : `update t set body = body || '.' where id = ${round + 3};`;
      await database.query(`begin; ${before} alter table t replica identity ${identity}; ${update}; commit`);
      await same(`replica identity ${identity}`, 't');
    }
  });

  it('nothing: PostgreSQL itself refuses the update that could not be followed', async () => {
    await database.query('create table t (id int primary key, v int); insert into t values (1, 1)');
    await same('the copy', 't');
    await database.query('alter table t replica identity nothing; insert into t values (2, 2)');
    await expect(database.query('update t set v = 3')).rejects.toThrow(/replica identity/);
    await same('inserts', 't');
  });
});

describe('REPLICA IDENTITY FULL and a key that comes and goes while nobody looks', () => {
  it.each([
    ['comes', 'create table t (id int, v text)', ''],
    ['goes and comes back', 'create table t (id int primary key, v text)', 'alter table t drop constraint t_pkey'],
  ])('%s: rows that were alike stay apart', async (_, create, drop) => {
    const alike = "insert into t values (1, 'a'), (1, 'a'), (2, 'b')";
    const apart = `delete from t where ctid = (select min(ctid) from t where id = 1);
      alter table t add primary key (id); update t set v = 'c' where id = 2`;
    await database.query(`${create}; alter table t replica identity full; ${drop ? '' : alike}`);
    await same('the copy', 't');
    await database.query(drop ? `${drop}; ${alike}; ${apart}` : apart);
    await same('the deletion', 't');
    await database.query("update t set v = 'd'; update t set id = id + 10; insert into t values (3, 'x')");
    await same('changes with the key', 't');
  });

  it('as the capture trigger tells', async () => {
    await database.query(
      "create table t (id int, v text); alter table t replica identity full; insert into t values (1, 'a'), (1, 'a')",
    );
    await same('the copy', 't');
    await installTrigger();
    await database.query("delete from t where ctid = '(0,1)'; alter table t add primary key (id)");
    await same('the deletion', 't');
  });
});

describe('truncate', () => {
  it('of several tables, cascading, restarting sequences, in a transaction with changes and rolled back', async () => {
    await database.query(
      `create table a (id int generated by default as identity primary key, v text);
       create table b (id int primary key, a int references a);
       create table c (id int primary key, b int references b);
       create table other (id int primary key)`,
    );
    const fill =
      "insert into a (v) values ('x'), ('y'); insert into b select id, id from a on conflict do nothing; insert into c select id, id from b on conflict do nothing; insert into other select coalesce(max(id), 0) + 1 from other";
    await database.query(fill);
    const all = ['a', 'b', 'c', 'other'];
    await same('the copy', ...all);
    for (const step of [
      'truncate a cascade',
      fill,
      `truncate c, other restart identity; ${fill}`,
      `begin; truncate a restart identity cascade; ${fill}; commit`,
      `begin; truncate a cascade; rollback; insert into other values (900)`,
      `begin; insert into other values (901); truncate other, a cascade; insert into other values (902); truncate other; insert into other values (903); commit`,
      `begin; insert into other values (904); savepoint s; truncate other; rollback to s; insert into other values (905); commit`,
    ]) {
      await database.query(step);
      await same(step, ...all);
    }
  });
});

describe('inheritance', () => {
  it('rows of a child are not those of its parent', async () => {
    await database.query(
      `create table parent (id int primary key, v text); create table child (extra int, primary key (id)) inherits (parent);
       insert into parent values (1, 'p'); insert into child values (2, 'c', 20)`,
    );
    expect(await catchUp(config)).toEqual([]);
    await database.query(
      "update parent set v = v || '!'; insert into child values (3, 'd', 30); delete from only parent where id = 9",
    );
    expect(await catchUp(config)).toEqual([]);
    expect(await rows('select id, v from parent order by id')).toEqual([[1, 'p!']]);
    expect(await rows('select id, v, extra from child order by id')).toEqual([
      [2, 'c!', 20],
      [3, 'd', 30],
    ]);
    await database.query('truncate parent');
    expect(await catchUp(config)).toEqual([]);
    expect(await rows('select (select count(*)::int from parent), (select count(*)::int from child)')).toEqual([
      [0, 0],
    ]);
  });
});

describe('tables that are left out', () => {
  it('are told of, each once and with the reason', async () => {
    await database.query(
      `create table t (id int primary key); create table bare (id int); create unlogged table fast (id int primary key);
       create extension file_fdw; create server files foreign data wrapper file_fdw;
       create foreign table far (id int) server files options (filename '/dev/null')`,
    );
    const warned = vi.spyOn(log, 'warn');
    const quick = { ...config, snapshot: { ...config.snapshot, tablesIntervalMs: 20 } };
    const running = start(quick);
    await eventually('streaming', () => running.pipeline.status().source?.connected === true);
    await database.query('create table later (id int primary key)');
    await eventually('another look', async () => {
      const found = await database.query("select from pg_publication_tables where tablename = 'later'");
      return found.length === 1;
    });
    await running.stop();
    expect(warned.mock.calls.filter(([, text]) => String(text).includes('left out'))).toEqual([
      [{ table: 'public.bare' }, expect.stringMatching(/no primary key/)],
      [{ table: 'public.far' }, expect.stringMatching(/foreign table/)],
      [{ table: 'public.fast' }, expect.stringMatching(/UNLOGGED/)],
    ]);
  });
});

describe('a publication of one’s own', () => {
  it('with row filters and column lists: what it publishes, by copy and stream', async () => {
    await database.query(
      `create table f (id int primary key, v text, secret text);
       insert into f select i, 'v' || i, 'hidden' from generate_series(1, 10) i;
       create publication ${database.name} for table f (id, v) where (id > 5)`,
    );
    expect(await catchUp(config)).toEqual([]);
    const check = async () =>
      expect(await rows('select * from f order by id')).toEqual(
        (await database.query('select id, v from f where id > 5 order by id')).map(({ id, v }) => [id, v]),
      );
    await check();
    await database.query(
      "insert into f values (3, 'x', 's') on conflict do nothing; insert into f values (11, 'new', 's'); update f set v = 'u' where id in (4, 8); update f set id = 50 where id = 2; update f set id = 1000 - id where id in (9, 1); update f set id = -1 where id = 7; delete from f where id in (5, 6)",
    );
    expect(await catchUp(config)).toEqual([]);
    await check();
  });

  it('without publish_via_partition_root: partitions are tables of their own', async () => {
    await database.query(
      `create table p (id int primary key, v text) partition by range (id);
       create table p1 partition of p for values from (0) to (10); create table p2 partition of p for values from (10) to (20);
       insert into p values (1, 'a'), (11, 'b');
       create publication ${database.name} for table p`,
    );
    await same('the copy', 'p1', 'p2');
    await database.query(
      "insert into p values (2, 'c'); update p set id = 12 where id = 1; update p set v = 'z'; truncate p1; insert into p values (3, 'x')",
    );
    await same('changes that move rows', 'p1', 'p2');
  });
});

describe('names', () => {
  it('of any kind are the same in DuckDB', async () => {
    const names = [
      'Mixed Case',
      'a.b',
      'quo"te',
      "apo'strophe",
      'select',
      'ünïcødé 😀',
      'x'.repeat(63),
      'back\\slash',
      'semi;--',
      ' ',
    ];
    const quoted = names.map((name) => `"${name.replaceAll('"', '""')}"`);
    for (const [i, schema] of quoted.entries()) {
      await database.query(
        `create schema ${schema}; create table ${schema}.${quoted[(i + 1) % names.length]} (${quoted[(i + 2) % names.length]} int primary key, ${quoted[(i + 3) % names.length]} text);
         insert into ${schema}.${quoted[(i + 1) % names.length]} values (1, 'copied')`,
      );
    }
    expect(await catchUp(config)).toEqual([]);
    for (const [i, schema] of quoted.entries())
      await database.query(
        `insert into ${schema}.${quoted[(i + 1) % names.length]} values (2, 'inserted'); update ${schema}.${quoted[(i + 1) % names.length]} set ${quoted[(i + 3) % names.length]} = 'updated' where ${quoted[(i + 2) % names.length]} = 1`,
      );
    expect(await catchUp(config)).toEqual([]);
    for (const [i, schema] of quoted.entries())
      expect(await rows(`select * from ${schema}.${quoted[(i + 1) % names.length]} order by 1`), names[i]).toEqual([
        [1, 'updated'],
        [2, 'inserted'],
      ]);
  });
});

describe('generated columns', () => {
  it('stored ones arrive where the publication says so (18), virtual ones never do', async () => {
    await database.query(
      `create table g (id int primary key, a int, twice int generated always as (a * 2) stored, thrice int generated always as (a * 3) virtual);
       insert into g (id, a) values (1, 10);
       create table k (id int, twice int generated always as (id * 2) stored); alter table k replica identity full;
       insert into k values (1), (1);
       create table p (id int, twice int generated always as (id * 2) stored) partition by range (id);
       create table p1 partition of p default; alter table p replica identity full; insert into p values (1);
       create publication ${database.name} for table g, k, p with (publish_generated_columns = stored, publish_via_partition_root)`,
    );
    const warned = vi.spyOn(log, 'warn');
    expect(await catchUp(config)).toEqual([]);
    expect(warned.mock.calls).toEqual([]);
    expect(await rows('from k union all from p')).toEqual([...Array(3)].map(() => [1, 2]));
    await database.query(
      'insert into g (id, a) values (2, 20); update g set a = 11 where id = 1; update k set id = 2 where ctid = (select min(ctid) from k)',
    );
    expect(await catchUp(config)).toEqual([]);
    expect(await rows('select * from k order by id')).toEqual([
      [1, 2],
      [2, 4],
    ]);
    expect(await rows('select * from g order by id')).toEqual([
      [1, 11, 22],
      [2, 20, 40],
    ]);
  });
});
