import { afterAll, beforeAll, expect, it } from 'vitest';
import { API_BASE } from '../../src/api/route.ts';
import { letterOf } from '../../src/dead-letter/dead-letter.ts';
import { DeadLetterStore } from '../../src/dead-letter/store.ts';
import { events, relation } from '../sink/duckdb/support.ts';
import { log } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { createKeys, startApi, type TestApi } from './support.ts';

const QUEUE = `${API_BASE}/sync/dead-letter-queue`;

let database: TestDatabase;
let keys: Awaited<ReturnType<typeof createKeys>>;
let api: TestApi;
beforeAll(async () => {
  database = await createDatabase();
  keys = await createKeys(database);
  api = await startApi(database);
  const item = relation('item', [
    ['id', 'int8'],
    ['v', 'text'],
  ]);
  const store = new DeadLetterStore(api.config, log);
  const some = events([
    ['c', item, ['1', 'a']],
    ['c', item, ['2', "'; drop table x --"]],
    ['c', item, ['3', 'c']],
  ]);
  await store.of('a').save(
    some.map((event) => letterOf(event, JSON.stringify([event.after!.text(0)]), 'no')),
    [],
  );
  await store.close();
});
afterAll(async () => {
  await api?.close();
  await database?.drop();
});

it('lists, shows, retries and discards, each to whom it is allowed', async () => {
  const { viewer, operator } = keys;
  // Letters are rows.
  expect((await api.ask(QUEUE, { key: viewer })).status).toBe(403);
  const list = await api.ask(QUEUE, { key: operator });
  expect(list.json).toMatchObject({
    total: 3,
    letters: [
      { row: ['3'], state: 'open', table_name: 'public.item', error: { class: 'data', message: 'no' } },
      { row: ['2'] },
      { row: ['1'] },
    ],
  });
  const [three, two, one] = list.json.letters.map(({ id }: { id: number }) => id);
  expect((await api.ask(`${QUEUE}?table=item&limit=1&sink=a`, { key: operator })).json).toMatchObject({
    total: 3,
    letters: [{ id: three }],
  });
  expect((await api.ask(`${QUEUE}?table=other`, { key: operator })).json).toEqual({ total: 0, letters: [] });
  expect((await api.ask(`${QUEUE}/${two}`, { key: operator })).json).toMatchObject({
    after: { id: '2', v: "'; drop table x --" },
  });
  for (const [method, path] of [
    ['POST', `${QUEUE}/${one}/retry`],
    ['DELETE', `${QUEUE}/${one}`],
  ] as const)
    expect((await api.ask(path, { key: viewer, method })).status).toBe(403);

  expect((await api.ask(`${QUEUE}/${one}?reason=test`, { key: operator, method: 'DELETE' })).json).toEqual({
    discarded: [one],
  });
  expect((await api.ask(`${QUEUE}/${one}`, { key: operator })).json).toMatchObject({
    state: 'discarded',
    closed_reason: 'test',
  });
  // In the body, or not at all, as the older systems' scripts do it.
  for (const [body, reason] of [
    [{ reason: 'spam' }, 'spam'],
    [undefined, 'discarded by key:operator over the API'],
  ] as const) {
    await database.query(`update waltide.dead_letters set state = 'open', closed_reason = null, closed_at = null`);
    expect((await api.ask(`${QUEUE}/${one}`, { key: operator, method: 'DELETE', body })).json).toEqual({
      discarded: [one],
    });
    expect((await api.ask(`${QUEUE}/${one}`, { key: operator })).json.closed_reason).toBe(reason);
  }
  expect((await api.ask(`${QUEUE}/${two}`, { key: operator, method: 'DELETE', body: { reason: ' ' } })).status).toBe(
    400,
  );
  const refused = await api.ask(`${QUEUE}/${one}/retry`, { key: operator, method: 'POST' });
  expect([refused.status, refused.json.code]).toEqual([409, 'DEAD_LETTER']);
  expect((await api.ask(`${QUEUE}/${one}/retry?force=true`, { key: operator, method: 'POST' })).json).toEqual({
    asked: [one],
    reread: [],
  });
  expect((await api.ask(`${QUEUE}/retry`, { key: operator, method: 'POST', body: { table: 'item' } })).json).toEqual({
    asked: [two, three],
    reread: [],
  });
  expect((await api.ask(`${QUEUE}/999`, { key: operator })).status).toBe(404);
  for (const bad of ['0', 'x', '1e3', '-1', '99999999999999999999'])
    expect((await api.ask(`${QUEUE}/${bad}`, { key: operator })).status, bad).toBe(400);
});
