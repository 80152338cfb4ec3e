import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

let database: TestDatabase;
let config: Config;
let path: string;

beforeEach(async () => {
  database = await createDatabase();
  ({ config, path } = testPipeline(database));
});
afterEach(() => database.drop());

const compare = (tables: readonly string[]): Promise<string[]> =>
  withDuckdb(path, (query) => differences(database.url, query, tables));
const rows = (sql: string): Promise<readonly (readonly unknown[])[]> => withDuckdb(path, (query) => query(sql));

describe('PostgreSQL → DuckDB, in-process', () => {
  it('copies what is there, then streams every kind of change', async () => {
    await database.query(SCHEMA);
    await runWorkload(database.url, 1, AbortSignal.timeout(500));
    expect(await catchUp(config)).toEqual([]);
    expect(await compare(TABLES)).toEqual([]);
    for (let seed = 2; seed < 5; seed++) {
      await runWorkload(database.url, seed, AbortSignal.timeout(1000));
      expect(await catchUp(config)).toEqual([]);
      expect(await compare(TABLES), `seed ${seed}`).toEqual([]);
    }
  });

  it('carries each shape of change alone: insert, update, delete, key change, swap of keys, truncate', async () => {
    await database.query(
      'create table t (id int primary key, body text, n int); alter table t alter body set storage external',
    );
    await database.query("insert into t select i, repeat('b', 5000) || i, i from generate_series(1, 10) i");
    await catchUp(config);
    const steps = [
      "insert into t values (11, 'new', 0)",
      'update t set n = n + 1 where id < 4',
      'delete from t where id = 5',
      'update t set id = 50 where id = 6',
      'begin; update t set id = -1 where id = 1; update t set id = 1 where id = 2; update t set id = 2 where id = -1; commit',
      'begin; delete from t where id = 7; insert into t values (7, null, null); update t set n = 7 where id = 7; commit',
      "begin; insert into t values (80, 'gone', 1); delete from t where id = 80; commit",
      'begin; update t set id = 90 where id = 8; update t set id = 91 where id = 90; update t set n = 8 where id = 91; commit',
      "begin; truncate t; insert into t values (1, 'after', 1); commit",
      'truncate t',
    ];
    for (const step of steps) {
      await database.query(step);
      expect(await catchUp(config), step).toEqual([]);
      expect(await compare(['public.t']), step).toEqual([]);
    }
  });

  it('puts schema public into main and others under their own name, whatever they are called', async () => {
    await database.query(
      'create schema "Odd ""schema"".x"; create table "Odd ""schema"".x"."select" ("from" int primary key, "at.b" text, "end" int)',
    );
    await database.query('create table "order" (id int primary key)');
    await database.query(`insert into "Odd ""schema"".x"."select" values (1, 'a', 2); insert into "order" values (1)`);
    await catchUp(config);
    expect(await rows('select * from "Odd ""schema"".x"."select"')).toEqual([[1, 'a', 2]]);
    expect(await rows('select * from main."order"')).toEqual([[1]]);
  });

  it('leaves tables without a key out of the publication, so that the application can go on changing them', async () => {
    await database.query(
      'create table keyed (id int primary key); create table keyless (a int); insert into keyless values (1)',
    );
    await catchUp(config);
    await database.query('update keyless set a = 2');
    await database.query('delete from keyless');
    expect(await rows("select table_name from information_schema.tables where table_schema = 'main'")).toEqual([
      ['keyed'],
    ]);
  });

  it('takes tables without a key insert-only, where asked to', async () => {
    ({ config, path } = testPipeline(database, {}, { keylessTables: 'insert-only' }));
    await database.query(
      'create table keyed (id int primary key); create table keyless (a int); insert into keyless values (1)',
    );
    await catchUp(config);
    await database.query('insert into keyless values (2), (2); update keyless set a = 9 where a = 1');
    await catchUp(config);
    expect(await rows('select a from keyless order by a')).toEqual([[1], [2], [2]]);
  });

  it('adds a column that a table gains, with the default for rows that were there', async () => {
    await database.query('create table t (id int primary key); insert into t values (1)');
    await catchUp(config);
    await database.query(
      "alter table t add column extra numeric(8,2); insert into t values (2, 1.50); alter table t add column more text default 'x'; insert into t values (3)",
    );
    await catchUp(config);
    expect(await rows('select id, extra::varchar, more from t order by id')).toEqual([
      [1, null, 'x'],
      [2, '1.50', 'x'],
      [3, null, 'x'],
    ]);
  });

  it('keeps the key under REPLICA IDENTITY FULL and INDEX', async () => {
    await database.query('create table f (id int primary key, v text); alter table f replica identity full');
    await database.query(
      'create table i (id int primary key, code text not null unique, v text); alter table i replica identity using index i_code_key',
    );
    await database.query("insert into f values (1, 'a'), (2, 'b'); insert into i values (1, 'x', 'a'), (2, 'y', 'b')");
    await catchUp(config);
    await database.query(
      "update f set v = 'c' where id = 1; update f set id = 20 where id = 2; update i set v = 'c' where id = 1; update i set code = 'z' where id = 2; delete from i where id = 1",
    );
    await catchUp(config);
    expect(await compare(['public.f', 'public.i'])).toEqual([]);
  });

  it('follows partitioned tables under the name of their root', async () => {
    await database.query('create table p (id int, day date, primary key (id, day)) partition by range (day)');
    await database.query(
      "create table p1 partition of p for values from ('2026-01-01') to ('2026-07-01'); create table p2 partition of p for values from ('2026-07-01') to ('2027-01-01')",
    );
    await database.query("insert into p values (1, '2026-02-02'), (2, '2026-08-08')");
    await catchUp(config);
    await database.query(
      "insert into p values (3, '2026-03-03'); update p set day = '2026-09-09' where id = 1; delete from p where id = 2",
    );
    await catchUp(config);
    expect(await rows('select id, day::varchar from p order by id')).toEqual([
      [1, '2026-09-09'],
      [3, '2026-03-03'],
    ]);
  });
});
