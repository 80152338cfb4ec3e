import type pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { TypeCatalog } from '../../src/postgres/catalog.ts';
import { connect } from '../../src/postgres/connection.ts';
import { walPosition } from '../../src/postgres/slot.ts';
import { RelationCache } from '../../src/source/relations.ts';
import { settledKey } from '../../src/source/settled-key.ts';
import { log } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let client: pg.Client;

beforeAll(async () => {
  database = await createDatabase();
  client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
  await client.query('create table public.older (b int, a int); alter table public.older add primary key (a, b)');
  await client.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [database.name]);
});
afterAll(async () => {
  await client.end();
  await database.drop();
});

async function oidOf(table: string): Promise<number> {
  const { rows } = await client.query('select $1::regclass::oid::int as oid', [`public.${table}`]);
  return rows[0].oid;
}

it('a key counts at once where it came with its table, or is older than what the slot streams', async () => {
  expect(await settledKey(client, await oidOf('older'), database.name, null)).toEqual({
    names: ['b', 'a'],
    from: null,
  });
  await client.query('create table public.fresh (id int primary key)');
  expect(await settledKey(client, await oidOf('fresh'), database.name, null)).toEqual({ names: ['id'], from: null });
  await client.query('create table public.late (id int)');
  const late = await oidOf('late');
  expect(await settledKey(client, late, database.name, null)).toEqual({ names: [], from: null });
  await client.query('alter table public.late add primary key (id)');
  expect(await settledKey(client, late, database.name, null)).toMatchObject({ names: ['id'], from: expect.anything() });
  expect(await settledKey(client, late, database.name, ['id'])).toEqual({ names: ['id'], from: null });
  // A column that was called otherwise is another one.
  await client.query('alter table public.older rename a to c');
  expect(await settledKey(client, await oidOf('older'), database.name, null)).toMatchObject({
    from: expect.anything(),
  });
});

it('any other key counts from transactions on that commit after it was seen', async () => {
  await client.query('create table public.t (v text, id int); alter table public.t replica identity full');
  await client.query('alter table public.t add primary key (id)');
  const oid = await oidOf('t');
  const relations = new RelationCache({
    catalog: client,
    types: new TypeCatalog(client),
    slot: database.name,
    publications: [],
    captured: null,
    log,
    history: null,
  });
  const column = { modifier: -1, isKey: true };
  await relations.describe({
    type: 'relation',
    oid,
    schema: 'public',
    table: 't',
    replicaIdentity: 'f',
    columns: [
      { name: 'v', typeOid: 25, ...column },
      { name: 'id', typeOid: 23, ...column },
    ],
  });
  expect(relations.get(oid, 1n)?.key).toEqual([]);
  const { inserted } = await walPosition(client);
  expect(relations.get(oid, inserted + 8n)?.key).toEqual([1]);
  expect(relations.get(oid, inserted + 16n)?.key).toEqual([1]);
});
