import type pg from 'pg';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { resolveConfig } from '../../src/config/load.ts';
import { parseLsn } from '../../src/event/lsn.ts';
import { migrate } from '../../src/postgres/control.ts';
import { momentAfter, momentBefore, momentOf, momentsSince, momentUpTo } from '../../src/postgres/positions.ts';
import { connectSource } from '../../src/postgres/session.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let client: pg.Client;
beforeEach(async () => {
  database = await createDatabase();
  client = await connectSource(resolveConfig({ source: { url: database.url, tables: ['*.*'] } }).source, 'test');
  await migrate(client);
});
afterEach(async () => {
  await client.end();
  await database.drop();
});

it('finds the nearest position by LSN, of however many digits', async () => {
  const lsns = ['0/FCCBC28', '0/3BDD81A8', '0/54D1F200', '0/F4D1F200', '1/0'];
  const ago = (minutes: number) => new Date(Date.now() - minutes * 60_000);
  for (const [i, lsn] of lsns.entries())
    await client.query('insert into waltide.positions values ($1, $2)', [lsn, ago(20 - i * 4)]);
  const at = async (moment: Promise<{ lsn: bigint } | null>) => (await moment)?.lsn;
  expect(await at(momentBefore(client, ago(10)))).toBe(parseLsn('0/54D1F200'));
  expect(await at(momentAfter(client, ago(10)))).toBe(parseLsn('0/F4D1F200'));
  expect(await at(momentUpTo(client, parseLsn('0/54D1F201')))).toBe(parseLsn('0/54D1F200'));
  expect(await at(momentOf(client, parseLsn('0/1')))).toBe(parseLsn('0/FCCBC28'));
  expect((await momentsSince(client, 0n)).map(({ lsn }) => lsn)).toEqual(lsns.map(parseLsn));
});
