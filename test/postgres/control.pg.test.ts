import type pg from 'pg';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { controlVersion, migrate } from '../../src/postgres/control.ts';
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

it('a control schema that lacks a migration in the middle gets it', async () => {
  await migrate(client);
  await database.query('drop table waltide.schema_history; delete from waltide.migrations where version = 3');
  await migrate(client);
  expect(await database.query('select version from waltide.migrations where version = 3')).toHaveLength(1);
  expect(await database.query('select from waltide.schema_history')).toEqual([]);
});

it('a control schema of a newer version is refused, and left as it is', async () => {
  await migrate(client);
  const before = await database.query('select version from waltide.migrations order by 1');
  await database.query("insert into waltide.migrations (version, name) values (999, 'from the future')");
  await expect(controlVersion(client)).rejects.toMatchObject({ code: 'SOURCE_SETTINGS' });
  await expect(migrate(client)).rejects.toMatchObject({
    code: 'SOURCE_SETTINGS',
    message: expect.stringContaining('is at version 999'),
    help: expect.stringContaining('newer Waltide'),
  });
  // Nor is what it lacks below that put in.
  await database.query('delete from waltide.migrations where version = 3');
  await expect(migrate(client)).rejects.toMatchObject({ code: 'SOURCE_SETTINGS' });
  expect(await database.query('select from waltide.migrations')).toHaveLength(before.length);
});
