import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ConfigInput } from '../../src/config/schema.ts';
import { withDuckdb } from '../support/compare.ts';
import { HASHED, MASK_KEY } from '../support/masks.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';
import { askForSnapshot } from '../support/snapshots.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

type Transforms = NonNullable<ConfigInput['source']['transforms']>;

const TABLE = `
create table t (id int primary key, grp int not null, vip bool, name text, big text, n numeric(10,2));
alter table t alter big set storage external;
insert into t select i, i % 5, i % 2 = 0, 'name ' || i, repeat('x', 3000) || i, i * 1.5 from generate_series(1, 60) i`;

/** Changes that take rows out of the filters of these tests and bring them in, by every kind of statement. */
async function change(random: Random, count: number): Promise<void> {
  const client = new pg.Client(database.url);
  await client.connect();
  for (let i = 0; i < count; i++) {
    const [id, other] = [random.int(80), random.int(80)];
    await client.query(
      random.pick([
        `insert into t values (${id}, ${random.int(5)}, null, 'new', repeat('y', 2500) || ${id}, 5) on conflict do nothing`,
        `update t set grp = ${random.int(5)} where id = ${id}`,
        `update t set grp = ${random.int(5)}, vip = not vip where id between ${id} and ${id + 5}`,
        `update t set n = n + 1 where id = ${id}`,
        `update t set big = repeat('z', 2500) || ${i} where id = ${id}`,
        `update t set id = ${other} + 100 where id = ${id} and not exists (select from t where id = ${other} + 100)`,
        'update t set id = id - 100 where id > 100 and not exists (select from t u where u.id = t.id - 100)',
        `update t set name = null where id = ${id}`,
        `delete from t where id = ${id}`,
        `begin; update t set grp = 0 where id = ${id}; update t set grp = 4 where id = ${id}; update t set grp = 1 where id = ${id}; commit`,
      ]),
    );
  }
  await client.end();
}

/** Fails unless the target's rows are those that PostgreSQL gives for `source`. */
async function same(path: string, source: string, target: string): Promise<void> {
  const texts = (rows: readonly (readonly unknown[])[]): string[] =>
    rows.map((row) => JSON.stringify(row.map((value) => (value === null ? null : String(value))))).sort();
  const expected = (await database.query(source)).map((row) => Object.values(row));
  expect(texts(await withDuckdb(path, (query) => query(target)))).toEqual(texts(expected));
}

const module = (text: string): string => {
  const file = join(mkdtempSync(join(tmpdir(), 'waltide-module-')), 'transform.mjs');
  writeFileSync(file, text);
  return file;
};

describe('transforms, PostgreSQL → DuckDB', { timeout: 300_000 }, () => {
  it('filter rows, drop, rename, cast and mask columns, whatever brings a row in or takes it out', async () => {
    const transforms: Transforms = [
      {
        tables: ['public.t'],
        filter: 'grp >= 2 and (vip or vip is null)',
        drop: ['vip'],
        rename: { n: 'amount', name: 'who' },
      },
      { tables: ['*.*'], cast: { n: 'text' } },
    ];
    const protect = { key: MASK_KEY, rules: [{ columns: ['public.t.id', 'public.t.name'], mask: 'hash' as const }] };
    const { config, path } = testPipeline(database, { snapshot: { chunkRows: 15 } }, { transforms, protect });
    await database.query(`${TABLE}; alter table t replica identity full`);
    const compare = (): Promise<void> =>
      same(
        path,
        `select ${HASHED.source('id::text')} as a, grp, ${HASHED.source('name')} as b, md5(big) as big, n::text from t where grp >= 2 and (vip or vip is null)`,
        'select id, grp, who, md5(big), amount from t',
      );
    await catchUp(config);
    await compare();
    for (let seed = 1; seed < 4; seed++) {
      await change(new Random(seed), 80);
      expect(await catchUp(config)).toEqual([]);
      await compare();
    }
    const { stop } = start(config);
    const changes = change(new Random(9), 150);
    await askForSnapshot(database, config, 't');
    await changes;
    await eventually('the snapshot is over', async () => {
      const left = await database.query("select from waltide.snapshots where state in ('pending', 'running')");
      return left.length === 0;
    });
    await stop();
    expect(await catchUp(config)).toEqual([]);
    await compare();
    expect(
      await withDuckdb(path, (query) =>
        query("select column_name, data_type from duckdb_columns() where table_name = 't' and schema_name = 'main'"),
      ),
    ).toEqual([
      ['id', 'VARCHAR'],
      ['grp', 'INTEGER'],
      ['who', 'VARCHAR'],
      ['big', 'VARCHAR'],
      ['amount', 'VARCHAR'],
    ]);
  });

  it('filter by the key without the whole old row, and whole tables without a key', async () => {
    const transforms: Transforms = [
      { tables: ['public.t'], filter: 'id between 10 and 40' },
      { tables: ['public.log'], filter: "what like 'a%'", drop: ['n'] },
      { tables: ['public.bag'], filter: 'n > 2', drop: ['n'] },
    ];
    const { config, path } = testPipeline(database, {}, { transforms, keylessTables: 'insert-only' });
    await database.query(TABLE);
    await database.query("create table log (what text, n int); insert into log values ('a', 1), ('b', 2)");
    await database.query('create table bag (what text, n int); alter table bag replica identity full');
    await database.query("insert into bag select 'same', i % 6 from generate_series(1, 40) i");
    await catchUp(config);
    for (let round = 0; round < 2; round++) {
      await database.query(
        'update t set grp = grp + 1; insert into t values (1000, 1), (1001, 1); delete from t where id % 7 = 0',
      );
      await database.query(
        "update t set id = id + 1000, big = 'moved' where id in (15, 16); delete from t where id = 1000",
      );
      await database.query(
        "update t set id = 15, big = 'in' where id = 1001; insert into log values ('ab', 3), ('ba', 3), (null, 3)",
      );
      await database.query(
        'update bag set n = (n + 3) % 6; delete from bag where ctid in (select ctid from bag where n = 5 limit 3)',
      );
      expect(await catchUp(config)).toEqual([]);
      await same(
        path,
        'select id, grp, md5(big) as big from t where id between 10 and 40',
        'select id, grp, md5(big) from t',
      );
      await same(path, "select what from log where what like 'a%'", 'select what from log');
      await same(path, 'select what from bag where n > 2', 'select what from bag');
      await database.query('delete from t where id > 900');
    }
  });

  it('call functions of a module, which change values and leave rows out', async () => {
    const file = module(`
      export default (row, { table }) => {
        if (row.grp === '3') return null;
        return { ...row, name: row.name === null ? null : row.name.toUpperCase() + ' of ' + table, n: Number(row.grp) * 2, vip: row.vip !== 't' };
      }`);
    const { config, path } = testPipeline(database, {}, { transforms: [{ tables: ['public.t'], module: file }] });
    await database.query(`${TABLE}; alter table t replica identity full`);
    await catchUp(config);
    for (let seed = 1; seed < 3; seed++) {
      await change(new Random(seed), 60);
      expect(await catchUp(config)).toEqual([]);
      await same(
        path,
        "select id, grp, (vip is not true)::text as vip, upper(name) || ' of t' as name, md5(big) as big, (grp * 2)::numeric(10,2) as n from t where grp <> 3",
        'select id, grp, vip, name, md5(big), n from t',
      );
    }
  });

  it('fill the table again where filter or module are others', async () => {
    await database.query(`${TABLE}; alter table t replica identity full`);
    const shared = testPipeline(database);
    const as = async (transforms: Transforms, source: string): Promise<void> => {
      const { source: changed } = testPipeline(database, {}, { transforms }).config;
      await catchUp({ ...shared.config, source: changed });
      await same(shared.path, source, 'select id, name from t');
    };
    await as([], 'select id, name from t');
    await as([{ tables: ['public.t'], filter: 'grp = 1' }], 'select id, name from t where grp = 1');
    await as(
      [{ tables: ['public.t'], module: module('export default (row) => ({ ...row, name: 1 })') }],
      "select id, '1' as name from t",
    );
    await as([{ tables: ['public.t'], filter: 'grp <> 1' }], 'select id, name from t where grp <> 1');
  });

  it('are refused where they cannot be kept, before anything is read', async () => {
    await database.query(TABLE);
    const refused = async (transform: Omit<Transforms[number], 'tables'>, message: RegExp): Promise<void> => {
      const { config } = testPipeline(database, {}, { transforms: [{ tables: ['public.t'], ...transform }] });
      await expect(catchUp(config)).rejects.toThrow(message);
    };
    await refused({ filter: 'grp > 2' }, /filter on grp, and an update does not tell what that was before/);
    await refused({ filter: 'grp >' }, /a column or a value at character 6/);
    await refused({ filter: "id = 'x'" }, /compares number with "x"/);
    await refused({ filter: 'nothing = 1' }, /has no published column nothing/);
    await refused({ drop: ['id'] }, /has id in its key/);
    await refused({ drop: ['nothing'] }, /has no published column nothing/);
    await refused({ rename: { name: 'big' } }, /would have two columns big/);
    await refused({ cast: { name: 'int4' } }, /cast from text to int4: some values would not fit/);
    await refused({ module: '/nowhere.mjs' }, /cannot be loaded/);
    await refused({ module: module('export const a = 1') }, /is not a function/);
    await refused(
      { module: module('export default () => { throw new Error("klartext") }') },
      /threw Error for a row of table public\.t$/,
    );
    await refused({ module: module('export default async (row) => row') }, /neither a row nor null/);
    await refused({ module: module('export default (row) => ({ ...row, more: 1 })') }, /a column "more"/);
    await refused({ module: module('export default (row) => ({ ...row, id: row.id + 1 })') }, /changed the key/);
  });
});
