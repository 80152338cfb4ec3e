import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { cli, makeProject, type Outcome, start } from '../cli/support.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
let folder: string;
beforeEach(async () => {
  database = await createDatabase();
  folder = await mkdtemp(join(tmpdir(), 'waltide-pull-'));
  await database.query(`create table forms (id int primary key, name text, n numeric, at timestamptz, doc jsonb, tags text[], raw bytea,
    double numeric generated always as (n * 2) stored, secret text default 'kept'); create table other (id int primary key)`);
  project = await makeProject({
    source: { url: database.url, slot: database.name, publication: database.name, tables: ['public.*'] },
    tracking: { retry: { attemptsMax: 1 } },
    schedules: [
      { name: 'nothing', type: 'pull', path: join(folder, 'nothing.mjs'), table: 'forms', cron: '0 0 1 1 *' },
      {
        name: 'forms',
        type: 'pull',
        path: join(folder, 'pull.mjs'),
        table: 'forms',
        columns: ['name', 'n', 'at', 'doc', 'tags', 'raw'],
        cron: '0 0 1 1 *',
      },
    ],
  });
});
afterEach(async () => {
  await project.remove();
  await database.drop();
});

/** A module whose `pull` is `body`, an async generator's; another each time, where a process would load it only once. */
async function module(body: string): Promise<void> {
  await writeFile(join(folder, 'body.mjs'), `export async function* pull(cursor, { signal, log, config }) { ${body} }`);
  await writeFile(
    join(folder, 'pull.mjs'),
    `export async function* pull(...all) {
       yield* (await import(new URL('body.mjs?' + Math.random(), import.meta.url))).pull(...all);
     }`,
  );
}
const run = (): Promise<Outcome> => cli(project.dir, 'schedule', 'run', 'forms');
const forms = () => database.query('select id, name, n::text, at::text, doc, tags, raw, secret from forms order by id');
const cursor = async () =>
  (await database.query(`select cursor, pages::int as pages from waltide.pulls where name = 'forms'`))[0];

test('pages are upserted with their cursor, and the next run goes on from it', async () => {
  await module(`
    const from = cursor?.from ?? 0;
    for (let page = from; page < from + 2; page++)
      yield { cursor: { from: page + 1 }, latest: 'page ' + page, rows: [
        { id: page, name: 'first', n: 12345678901234567890n, at: new Date(0), doc: { a: [1, null] }, tags: ['x', 'y,z'], raw: Buffer.from([0, 255]) },
        { id: page, name: "it's " + page, n: '0.1' },
        { id: 100, n: page },
      ] };`);
  expect(await run()).toMatchObject({ code: 0, stdout: expect.stringMatching(/^forms is done: run \d+, 6 records/) });
  expect(await cursor()).toEqual({ cursor: { from: 2 }, pages: 2 });
  expect(await forms()).toMatchObject([
    {
      id: 0,
      name: "it's 0",
      n: '0.1',
      at: expect.stringMatching(/^1970-01-01/),
      doc: { a: [1, null] },
      tags: ['x', 'y,z'],
      raw: Buffer.from([0, 255]),
      secret: 'kept',
    },
    { id: 1, name: "it's 1" },
    { id: 100, name: null, n: '1' },
  ]);
  expect((await run()).code).toBe(0);
  expect(await cursor()).toEqual({ cursor: { from: 4 }, pages: 4 });
  const [history] = await database.query(
    `select records_processed::int as n, latest from (select records_processed, sync_metadata ->> 'latest' as latest from waltide.sync_history order by id desc limit 1) h`,
  );
  expect(history).toMatchObject({ n: 6 });
}, 120_000);

test('the same page again changes nothing, deletes come first, and equal rows are not written', async () => {
  await module(
    `yield { cursor: 1, deletes: [{ id: 2 }], rows: [{ id: 1, doc: { a: 1 }, tags: [] }, { id: 2, name: 'two' }] };`,
  );
  await database.query(`insert into forms (id, name, secret) values (2, 'old', 'gone')`);
  expect((await run()).code).toBe(0);
  const versions = () => database.query('select id, xmin::text from forms where id = 1');
  const before = await versions();
  expect(await forms()).toMatchObject([{ id: 1 }, { id: 2, name: 'two', secret: 'kept' }]);
  expect((await run()).code).toBe(0);
  expect(await versions()).toEqual(before);
}, 120_000);

test('a page that does not fit is written not at all, and its cursor is not moved', async () => {
  const cases: [string, RegExp][] = [
    [`{ id: 2, n: 'no number' }`, /does not take a page: invalid input syntax for type numeric/],
    [`{ id: 2, secret: 'x' }`, /has "secret", which may not be written/],
    [`{ id: 2, double: 1 }`, /has "double", which may not be written/],
    [`{ id: 2, 'n"; drop table other; --': 1 }`, /which may not be written/],
    [`{ name: 'no key' }`, /has no "id", which is of its key/],
    [`{ id: 2, n: 9007199254740993 }`, /JavaScript rounds/],
  ];
  for (const [row, why] of cases) {
    await module(`yield { cursor: 'good', rows: [] }; yield { cursor: 'bad', rows: [{ id: 1, name: 'x' }, ${row}] };`);
    expect(await run()).toMatchObject({ code: 1, stderr: expect.stringMatching(why) });
    expect(await cursor()).toMatchObject({ cursor: 'good' });
    expect(await forms()).toEqual([]);
  }
  await module(`yield { rows: [] };`);
  expect(await run()).toMatchObject({ code: 1, stderr: expect.stringMatching(/a page needs `cursor`/) });
  await module(`throw new TypeError('the API said no');`);
  expect(await run()).toMatchObject({ code: 1, stderr: expect.stringMatching(/the API said no/) });
  await writeFile(join(folder, 'nothing.mjs'), 'export const nothing = 1;');
  expect(await cli(project.dir, 'schedule', 'run', 'nothing')).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/exports no function `pull`/),
  });
}, 240_000);

test('killed between two pages, the next run goes on from the last that was written', async () => {
  await module(`
    for (let page = cursor ?? 0; page < 40; page++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      yield { cursor: page + 1, rows: [{ id: page, name: 'page ' + page }] };
    }`);
  const child = start(project.dir, 'schedule', 'run', 'forms');
  await eventually(
    'some pages are written',
    async () => ((await cursor().catch(() => undefined))?.pages as number) > 3,
  );
  child.child.kill('SIGKILL');
  await child.end();
  // At one moment: the server may still be at the last that the killed one has sent.
  const [at] = await database.query(
    `select cursor::text::int as cursor, (select count(*)::int from forms) as pages from waltide.pulls where name = 'forms'`,
  );
  expect(at!.pages).toBe(at!.cursor);
  // Until its heartbeat expires, the killed one counts as running.
  await database.query(`update waltide.instances set expires_at = now() - interval '1 second'`);
  await eventually('it goes on', async () => (await run()).code === 0);
  expect(await cursor()).toMatchObject({ cursor: 40, pages: 40 });
  expect((await forms()).map(({ id }) => id)).toEqual(Array.from({ length: 40 }, (_, i) => i));
}, 240_000);
