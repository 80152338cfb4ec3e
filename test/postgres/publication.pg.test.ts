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
