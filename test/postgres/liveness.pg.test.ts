import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { CopySession } from '../../src/postgres/copy-session.ts';
import { createDatabase, query, type TestDatabase } from '../support/postgres.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';

let database: TestDatabase;
let proxy: TcpProxy;

beforeEach(async () => {
  database = await createDatabase();
  proxy = await TcpProxy.before(database.url);
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
});
afterEach(async () => {
  vi.useRealTimers();
  await proxy.close();
  await database.drop();
});

const session = () => connect(proxy.through(database.url), { applicationName: 'test', timeoutMs: 5000 });

/** Lets time go by, with room for what is done in it. */
async function passes(): Promise<void> {
  vi.advanceTimersByTime(5000);
  for (let i = 0; i < 3; i++) await query(database.url, 'select');
}

/** Whether it settles within as many looks as a session may be silent, and many more. */
async function settles(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  const note = (): void => {
    settled = true;
  };
  promise.then(note, note);
  for (let look = 0; look < 15 && !settled; look++) await passes();
  return settled;
}

it('waits for a server that is at work, however long', async () => {
  const [holder, client] = [await session(), await session()];
  await holder.query('select pg_advisory_lock(1)');
  const answer = client.query('select pg_advisory_lock(1)');
  expect(await settles(answer)).toBe(false);
  await holder.end();
  await answer;
  await client.end();
});

it('leaves a session alone that waits for nothing', async () => {
  const client = await session();
  for (let look = 0; look < 10; look++) await passes();
  expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  await client.end();
});

it('gives up a session whose question never came to the server', async () => {
  const client = await session();
  proxy.freeze();
  const answer = client.query('select');
  expect(await settles(answer)).toBe(true);
  await expect(answer).rejects.toThrow(/half-open/);
});

it('gives up a COPY whose rows the server cannot get rid of, and one that the server knows nothing of any more', async () => {
  const rows = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT";
  for (const gone of [false, true]) {
    const client = await session();
    const pid = (await client.query('select pg_backend_pid() as pid')).rows[0].pid;
    const copy = await CopySession.start(client, rows);
    proxy.freeze();
    if (gone) await database.query('select pg_terminate_backend($1)', [pid]);
    const drained = (async () => {
      while (await copy.read());
    })();
    expect(await settles(drained)).toBe(true);
    await expect(drained).rejects.toThrow(/half-open/);
    copy.destroy();
  }
});
