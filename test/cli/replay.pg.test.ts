import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { damage, differences, withDuckdb } from '../support/compare.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';
import { cli, makeProject, type Running, start } from './support.ts';

/*
 * Goal: after any replay the sink equals the source. Method: rows of the sink are damaged by hand within what is then
 * replayed, through the running process and without one, with kill -9 in the middle; every row
 * is compared.
 */
let database: TestDatabase;
let project: { dir: string; remove(): Promise<void> };
const running: Running[] = [];

beforeEach(async () => {
  database = await createDatabase();
  await database.query(`
    create table public.orders (id int primary key, note text, n int not null default 0);
    alter table public.orders alter note set storage external;
    create table public.items (id int primary key, body text);
    create table public.log (what text); alter table public.log replica identity full`);
  project = await makeProject({
    source: {
      url: database.url,
      slot: database.name,
      publication: database.name,
      tables: ['public.*'],
      heartbeatIntervalMs: 500,
      retain: { bytes: 1_000_000_000 },
    },
    sinks: [{ name: 'analytics', type: 'duckdb', path: './analytics.duckdb', batch: { rowsMax: 200 } }],
  });
});
afterEach(async () => {
  for (const one of running.splice(0)) one.child.kill('SIGKILL');
  await project.remove();
  await database.drop();
});

const run = (...argv: string[]): Running => {
  const one = start(project.dir, ...argv);
  running.push(one);
  return one;
};
const file = (): string => `${project.dir}/analytics.duckdb`;
const TABLES = ['public.orders', 'public.items'];
const compare = (tables = TABLES): Promise<string[]> =>
  withDuckdb(file(), (query) => differences(database.url, query, tables));
const lsn = async (): Promise<string> =>
  (await database.query('select pg_current_wal_lsn()::text as lsn'))[0]!.lsn as string;

/** Changes rows of both tables in one way or another, so that any damage lies within them. */
let moved = 1000;

async function changeAll(seed: number): Promise<void> {
  const random = new Random(seed);
  await database.query(
    "insert into orders select i, repeat('x', 3000) || i, 0 from generate_series(1, 300) i on conflict do nothing",
  );
  await database.query(
    "insert into items select i, 'body ' || i from generate_series(1, 300) i on conflict do nothing",
  );
  for (let i = 0; i < 40; i++) {
    const id = 1 + random.int(300);
    await database.query(
      random.pick([
        `update orders set n = n + 1 where id = ${id}`,
        `update orders set note = 'short' where id = ${id}`,
        `update orders set id = ${++moved} where id = ${id}`,
        `delete from items where id between ${id} and ${id + 5}`,
        `insert into items values (${id}, 'again') on conflict (id) do update set body = 'again'`,
      ]),
    );
  }
}

describe('replay', () => {
  test('repairs what was damaged, without a process and in two steps', async () => {
    expect((await run('run', '--until-caught-up').end()).code).toBe(0);
    const from = await lsn();
    const seed = Date.now() % 100_000;
    console.info(`replay, seed ${seed}`);
    await changeAll(seed);
    expect((await run('run', '--until-caught-up').end()).code).toBe(0);
    expect(await compare()).toEqual([]);
    await damage(
      file(),
      // A TOAST value that was unchanged when its row got another key cannot be brought back: the WAL does not carry it.
      'delete from orders where id % 3 = 0 and id < 1000',
      "update orders set note = 'wrong' where id % 2 = 0 and id < 1000",
      'delete from items',
    );
    expect(await compare()).not.toEqual([]);

    // The log has no key, so that applying it twice would double it.
    const keyless = await run('replay', '--from-lsn', from).end();
    expect(keyless.code, keyless.stderr).toBe(1);
    expect(keyless.stderr).toContain('public.log');
    // A request that was refused is no failed run, which would alert.
    expect(await database.query("select * from waltide.sync_history where sync_type like 'replay:%'")).toEqual([]);

    const one = await run('replay', '--table', 'public.orders,items', '--from-lsn', from).end();
    expect(one.code, one.stderr).toBe(0);
    expect(one.stdout).toContain('the next `waltide run` applies it again');
    expect((await run('run', '--until-caught-up').end()).code).toBe(0);
    expect(await compare()).toEqual([]);
    expect(await compare(['public.log'])).toEqual([]);
  });

  test('through the running process, with kill -9 in the middle, and writes meanwhile', async () => {
    const first = run('run');
    await first.until(/"streaming"/);
    const from = await lsn();
    await database.query("insert into log values ('once')");
    await changeAll(1);
    const shown = await run('replay', '--table', 'orders', '--table', 'items', '--from-lsn', from, '--json').end();
    expect(shown.code, shown.stderr).toBe(0);
    expect(JSON.parse(shown.stdout)).toMatchObject({ ok: true, sink: 'analytics', from, waited: true });
    await changeAll(2);
    first.child.kill('SIGTERM');
    expect((await first.end()).code).toBe(0);
    // What was committed last need not have come before the signal.
    expect((await run('run', '--until-caught-up').end()).code).toBe(0);
    expect(await compare()).toEqual([]);

    for (const ms of [20, 200, 500]) {
      await damage(file(), 'delete from orders where id % 2 = 1 and id < 1000', "update items set body = 'wrong'");
      const again = run('run');
      await again.until(/"streaming"/);
      const asked = await run('replay', '--table', 'orders,items', '--from-lsn', from, '--no-wait').end();
      expect(asked.code, asked.stderr).toBe(0);
      await changeAll(ms);
      await new Promise((resolve) => setTimeout(resolve, ms));
      again.child.kill('SIGKILL');
      await again.end();
      expect((await run('run', '--until-caught-up').end()).code).toBe(0);
      expect(await compare(), `killed after ${ms} ms`).toEqual([]);
      expect(await compare(['public.log'])).toEqual([]);
    }
  }, 300_000);

  test('--until leaves the sink as the source was then, and the next run goes on', async () => {
    expect((await run('run', '--until-caught-up').end()).code).toBe(0);
    const from = await lsn();
    await database.query("insert into orders values (1, 'a', 0), (2, 'b', 0)");
    const until = await lsn();
    await database.query("update orders set note = 'later' where id = 1; insert into orders values (3, 'c', 0)");
    expect((await run('run', '--until-caught-up').end()).code).toBe(0);
    const one = await run('replay', '--table', 'orders', '--from-lsn', from, '--until', until).end();
    expect(one.code, one.stderr).toBe(0);
    const notes = () => withDuckdb(file(), (query) => query('select id, note from orders order by id'));
    expect((await notes()).slice(0, 2)).toEqual([
      [1, 'a'],
      [2, 'b'],
    ]);
    expect((await run('run', '--until-caught-up').end()).code).toBe(0);
    expect(await compare()).toEqual([]);
  });

  test('bad input: what is wrong, where, and what to do; exit code not 0; nothing changed', async () => {
    expect((await run('run', '--until-caught-up').end()).code).toBe(0);
    const cases: [argv: string[], code: number, message: RegExp][] = [
      [[], 2, /say where to begin: --from-lsn or --since/],
      [['--since', '2h', '--from-lsn', '0/1'], 2, /one of them/],
      [['--since', 'rubbish'], 2, /--since: "rubbish" is not a time/],
      [['--since', '2999-01-01T00:00:00Z'], 2, /lies in the future/],
      [['--since', '2999-01-01'], 2, /2999-01-01 lies in the future/],
      [['--since', '2h', '--until', 'rubbish'], 2, /--until: "rubbish" is not a time/],
      [['--since', '2026-01-01 00:00'], 2, /has no time zone/],
      [['--from-lsn', '12345'], 2, /--from-lsn: "12345" is not an LSN/],
      [['--from-lsn', '0/1', '--sink', 'analytic'], 2, /there is no sink "analytic"; did you mean "analytics"/],
      [['--from-lsn', '0/1', '--table', 'nowhere'], 2, /table public.nowhere is not followed/],
      [
        ['--from-lsn', '0/1'],
        1,
        /cannot be replayed: slot .* holds WAL from .* snapshot start TABLE… --sink analytics/s,
      ],
      [['--from-lsn', 'FFFF/0'], 1, /beyond the end of the server's WAL/],
      [['--from-lsn', await lsn(), '--until', 'FFFF/0'], 1, /--until: FFFF\/0 lies beyond/],
      [['--from-lsn', await lsn(), '--until', '0/1'], 2, /--until lies before where the replay is to begin/],
      [['--since', '1h', '--until', '2h'], 2, /--until lies before where the replay is to begin/],
      [['--since', '10y'], 2, /not a time/],
      [['--since', '500d'], 1, /what was committed from .* cannot be replayed/],
    ];
    for (const [argv, code, message] of cases) {
      const outcome = await cli(project.dir, 'replay', ...argv);
      expect([outcome.code, outcome.stderr], argv.join(' ')).toEqual([code, expect.stringMatching(message)]);
      expect(outcome.stderr).not.toMatch(/^\s+at /m);
    }
    expect((await run('run', '--until-caught-up').end()).code).toBe(0);
  }, 300_000);
});
