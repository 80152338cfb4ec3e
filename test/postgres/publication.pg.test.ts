import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { type EnsuredPublication, ensurePublication, type PublicationOptions } from '../../src/postgres/publication.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let client: pg.Client;

beforeEach(async () => {
  database = await createDatabase();
  client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
});
afterEach(async () => {
  await client.end();
  await database.drop();
});

/** Asks for these tables. */
function ensure(options: Partial<PublicationOptions>, streaming = false): Promise<EnsuredPublication> {
  const all = { publication: 'waltide', tables: ['public.*'], exclude: [], keylessTables: 'exclude' as const };
  return ensurePublication(client, { ...all, ...options }, () => {}, streaming);
}

async function published(options: Partial<PublicationOptions>): Promise<string[]> {
  return (await ensure(options)).tables.map(({ table }) => table);
}

describe('inheritance', () => {
  beforeEach(() =>
    database.query(
      `create table parent (id int primary key); create table child (primary key (id)) inherits (parent);
       create table other (id int primary key)`,
    ),
  );

  it('a child is published where it is asked for, and nowhere else', async () => {
    expect(await published({ exclude: ['public.child'] })).toEqual(['other', 'parent']);
    expect(await published({})).toEqual(['child', 'other', 'parent']);
    expect(await published({ exclude: ['public.parent'] })).toEqual(['child', 'other']);
    expect(await published({})).toEqual(['child', 'other', 'parent']);
  });
});

describe('what is not in the WAL', () => {
  const WHY = { unlogged: /it is UNLOGGED/, foreign: /it is a foreign table/ };

  beforeEach(() =>
    database.query(
      `create extension file_fdw; create server files foreign data wrapper file_fdw;
       create table logged (id int primary key); create unlogged table fast (id int primary key);
       create foreign table far (id int) server files options (filename '/dev/null')`,
    ),
  );

  it('is left out with the reason where a pattern matches it', async () => {
    expect((await ensure({})).left).toEqual([
      { name: 'public.far', why: expect.stringMatching(WHY.foreign) },
      { name: 'public.fast', why: expect.stringMatching(WHY.unlogged) },
    ]);
  });

  it('is refused where it is named', async () => {
    for (const [table, why] of [
      ['fast', WHY.unlogged],
      ['far', WHY.foreign],
    ] as const) {
      const tables = ['public.logged', `public.${table}`];
      await expect(ensure({ tables })).rejects.toMatchObject({ code: 'TABLES', message: expect.stringMatching(why) });
      // Once a slot streams, a table may become so under way.
      expect((await ensure({ tables }, true)).left).toMatchObject([{ name: `public.${table}` }]);
    }
  });

  it.each([
    ['UNLOGGED', 'create unlogged table part partition of whole for values from (0) to (10)'],
    [
      'a foreign table',
      "create foreign table part partition of whole for values from (0) to (10) server files options (filename '/dev/null')",
    ],
  ])('leaves out a table one of whose partitions is %s', async (what, create) => {
    await database.query(
      `create table whole (id int) partition by range (id); alter table whole replica identity full;
       create table rest partition of whole default; ${create}`,
    );
    const why = expect.stringMatching(new RegExp(`its partition public.part is ${what}`));
    const { tables, left } = await ensure({ exclude: ['public.fa*'] });
    expect(tables.map(({ table }) => table)).toEqual(['logged']);
    expect(left).toEqual([{ name: 'public.whole', why }]);
    // Someone else's publication may carry it.
    const theirs = { publication: 'theirs', exclude: ['public.fa*'] };
    await database.query('create publication theirs for table logged, whole with (publish_via_partition_root)');
    const adopted = await ensure(theirs);
    expect(adopted.tables.map(({ table }) => table)).toEqual(['logged']);
    expect(adopted.left).toEqual([{ name: 'public.whole', why }]);
    await database.query('alter publication theirs set (publish_via_partition_root = false)');
    expect((await ensure(theirs)).tables.map(({ table }) => table)).toEqual(['logged', 'rest']);
  });
});
