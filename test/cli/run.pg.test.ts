import { existsSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { PipelineStatus } from '../../src/pipeline/status.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { cli, makeProject, type Running, start } from './support.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
let running: Running[] = [];

const config = () => ({
  source: { url: database.url, slot: database.name, tables: ['public.*'], heartbeatIntervalMs: 500 },
  sinks: [{ name: 'analytics', type: 'duckdb' as const, path: 'a.duckdb' }],
});

function run(...argv: string[]): Running {
  const one = start(project.dir, ...argv);
  running.push(one);
  return one;
}

async function rows(sql: string): Promise<unknown> {
  const { code, stdout, stderr } = await cli(project.dir, 'query', '--json', sql);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  return (JSON.parse(stdout) as { rows: unknown }).rows;
}

async function eventually<T>(ask: () => Promise<T>, wanted: T): Promise<void> {
  const deadline = Date.now() + 90_000;
  for (;;) {
    const got = await ask();
    if (JSON.stringify(got) === JSON.stringify(wanted)) return;
    if (Date.now() > deadline) return expect(got).toEqual(wanted);
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

beforeEach(async () => {
  database = await createDatabase();
  await database.query(
    `create table public.a (id int primary key, t text); insert into public.a select g, 'x' from generate_series(1, 1000) g`,
  );
  project = await makeProject(config());
});
afterEach(async () => {
  for (const one of running) one.child.kill('SIGKILL');
  await Promise.all(running.map((one) => one.end()));
  running = [];
  await database.drop();
  await project.remove();
});

describe('a run that has a goal', () => {
  test('setup copies and stops; --until-caught-up streams up to now and stops', async () => {
    const setup = await run('setup').end();
    expect(setup).toMatchObject({ code: 0, stdout: 'ready: 1,000 rows of 1 table are copied\n' });
    await database.query(`update public.a set t = 'y' where id <= 10`);
    const once = await run('run', '--until-caught-up', '--json').end();
    expect(once.code).toBe(0);
    const result = JSON.parse(once.stdout) as { ok: boolean; status: PipelineStatus };
    expect(result).toMatchObject({
      ok: true,
      until: 'caught-up',
      reached: true,
      stopped: [],
      status: { state: 'stopped' },
    });
    expect(result.status.sinks[0]!.events).toBe(10);
    expect(await readdir(join(project.dir, '.waltide'))).toEqual([]);
    const nothing = await run('setup').end();
    expect(nothing).toMatchObject({ code: 0, stdout: 'ready: nothing was left to copy\n' });
  });

  test('a deleted sink file is filled again, beside the stream; --recopy fills it too', async () => {
    await run('setup').end();
    await rm(join(project.dir, 'a.duckdb'));
    const filled = await run('run', '--until-caught-up').end();
    expect(filled).toMatchObject({ code: 0 });
    expect(filled.stderr).toContain('snapshot completed');
    expect(filled.stdout).toMatch(/^caught up: analytics 1,00\d events/);
    const again = await run('run', '--until-caught-up', '--recopy').end();
    expect(again).toMatchObject({ code: 0 });
    expect(again.stdout).toMatch(/^caught up: analytics 1,00\d events/);
  });

  test('a table that the sink cannot hold: exit code 3, the table named, the others go on', async () => {
    await database.query('create table public.late (id int primary key, "ID" text)');
    await run('setup').end();
    await database.query(`insert into public.late values (1, 'x'); insert into public.a values (5000, 'on')`);
    const once = await run('run', '--until-caught-up', '--json').end();
    expect(JSON.parse(once.stdout)).toMatchObject({
      ok: false,
      stopped: [{ sink: 'analytics', table: 'public.late' }],
    });
    expect(once.code).toBe(3);
    const again = await run('run', '--until-caught-up').end();
    expect(again.code).toBe(3);
    expect(again.stderr).toContain('stopped: public.late in sink analytics');
  });
});

describe('a run until stopped', () => {
  test('status, query, tail-side files and metrics; SIGTERM drains and leaves with 0', async () => {
    const one = run('run');
    await one.until(/"streaming"/);
    await database.query(`insert into public.a values (2001, 'é')`);
    await eventually(() => rows('select id, t from a where id > 1000'), [[2001, 'é']]);
    const status = await cli(project.dir, 'status');
    expect(status.code).toBe(0);
    expect(status.stdout).toMatch(/^streaming {2}pid \d+, role all/);
    expect(status.stdout).toMatch(/analytics {2}duckdb/);
    expect(status.stdout).toMatch(/slot \S+: in use by server process \d+/);
    const parsed = JSON.parse((await cli(project.dir, 'status', '--json')).stdout) as {
      running: boolean;
      processes: PipelineStatus[];
    };
    expect(parsed).toMatchObject({
      running: true,
      processes: [{ pid: one.child.pid, ready: true }],
      slot: { active: true, walStatus: 'reserved' },
    });
    expect((await cli(project.dir, 'doctor', '--json')).code).toBe(0);

    one.child.kill('SIGTERM');
    expect(await one.end()).toMatchObject({ code: 0, stdout: '' });
    expect(await readdir(join(project.dir, '.waltide'))).toEqual([]);
    const after = await cli(project.dir, 'status');
    expect(after.code).toBe(1);
    expect(after.stdout).toMatch(/not running: [\s\S]*not in use/);
  });

  test('query: formats, limits, errors', async () => {
    const one = run('run');
    await one.until(/"streaming"/);
    const query = (...argv: string[]) => cli(project.dir, 'query', ...argv);
    expect((await query('select id, t from a order by id limit 2')).stdout).toBe('id  t\n──  ─\n 1  x\n 2  x\n');
    expect((await query('--format', 'ndjson', '--limit', '1', 'select id, t from a order by id')).stdout).toBe(
      '{"id":1,"t":"x"}\n',
    );
    const cut = await query('--limit', '3', 'select id from a');
    expect(cut.stderr).toContain('only the first 3 rows');
    expect(JSON.parse((await query('--json', '--limit', '3', 'select id from a')).stdout)).toMatchObject({
      truncated: true,
    });
    const write = await query('delete from a');
    expect(write).toMatchObject({ code: 1, stdout: '' });
    expect(write.stderr).toMatch(/^error: [\s\S]*\nwhat to do: /);
    const slow = await query('--timeout', '200ms', 'select count(*) from range(1000000000000)');
    expect(slow.code).toBe(1);
    expect(slow.stderr).toContain('200 ms');
  });

  test('killed: its control file is stale, nobody is led astray, and the next one takes it away', async () => {
    const one = run('run');
    await one.until(/"streaming"/);
    const files = await readdir(join(project.dir, '.waltide'));
    expect(files).toEqual([`${database.name}.all.${one.child.pid}.json`]);
    one.child.kill('SIGKILL');
    await one.end();
    expect(existsSync(join(project.dir, '.waltide', files[0]!))).toBe(true);
    expect((await cli(project.dir, 'status')).stdout).toContain('not running');
    // Nobody holds the file any more, so it is asked itself.
    expect((await cli(project.dir, 'query', 'select 1')).stderr).toContain('(1 row)');
    const next = run('run');
    await next.until(/"streaming"/);
    expect(await readdir(join(project.dir, '.waltide'))).toEqual([`${database.name}.all.${next.child.pid}.json`]);
  });

  test('a second signal quits at once, even where draining hangs', async () => {
    const one = run('run');
    await one.until(/"streaming"/);
    const sessions = await database.query(
      `select pid from pg_stat_activity where datname = current_database() and application_name like '%waltide%'`,
    );
    expect(sessions.length).toBeGreaterThan(1);
    // None of them answers any more, so closing each takes its full time.
    for (const { pid } of sessions) process.kill(Number(pid), 'SIGSTOP');
    try {
      // One keystroke, which npm passes on once more.
      one.child.kill('SIGTERM');
      one.child.kill('SIGTERM');
      await one.until(/a second signal quits at once/);
      // Longer than two signals may be apart and count as one.
      await new Promise((wake) => setTimeout(wake, 500));
      expect(one.child.exitCode).toBeNull();
      one.child.kill('SIGINT');
      // Draining would take until the walsender answers, or the bound, and end otherwise.
      expect((await one.end()).code).toBe(130);
      expect(await readdir(join(project.dir, '.waltide'))).toEqual([]);
    } finally {
      for (const { pid } of sessions) process.kill(Number(pid), 'SIGCONT');
    }
  });

  test('stopped before its goal: not 0', async () => {
    await run('setup').end();
    // Keeps the slot busy, so that the run waits for it.
    const holder = run('run');
    await holder.until(/"streaming"/);
    const waiting = start(project.dir, 'run', '--until-caught-up');
    running.push(waiting);
    await waiting.until(/waiting for it to be released/);
    waiting.child.kill('SIGINT');
    const { code, stderr } = await waiting.end();
    expect(stderr).toContain('interrupted before it was caught up');
    expect(code).toBe(130);
  });
});

describe('slot and publication', () => {
  test('list marks ours; drop refuses what is active or not ours, and forgets the record', async () => {
    await database
      .query(`select pg_create_logical_replication_slot('${database.name}_other', 'test_decoding')`)
      .catch(() => database.query(`select pg_create_logical_replication_slot('${database.name}_other', 'pgoutput')`));
    const one = run('run');
    await one.until(/"streaming"/);
    type Listed = { name: string; owner: string; active: boolean; state: string | null };
    const all = JSON.parse((await cli(project.dir, 'slot', 'list', '--json')).stdout) as Listed[];
    const mine = all.filter((slot) => slot.name.startsWith(database.name));
    expect(mine).toMatchObject([
      { name: database.name, owner: 'this', active: true, state: 'streaming' },
      { name: `${database.name}_other`, owner: 'other', active: false, state: null },
    ]);
    expect((await cli(project.dir, 'slot', 'list')).stdout).toMatch(/this configuration/);

    expect((await cli(project.dir, 'slot', 'drop', database.name)).stderr).toMatch(
      /is in use by the server process \d+/,
    );
    expect((await cli(project.dir, 'slot', 'drop', `${database.name}_other`)).stderr).toContain('--force');
    const none = await cli(project.dir, 'slot', 'drop', 'nope');
    expect(none.code).toBe(1);
    expect(none.stderr).toContain(database.name);
    expect((await cli(project.dir, 'slot', 'drop', `${database.name}_other`, '--force')).code).toBe(0);

    one.child.kill('SIGTERM');
    await one.end();
    const dropped = await cli(project.dir, 'slot', 'drop', database.name);
    expect(dropped).toMatchObject({ code: 0, stdout: `slot "${database.name}" is dropped\n` });
    expect(await database.query('select * from waltide.slots')).toEqual([]);
    expect(await database.query(`select 1 from pg_replication_slots where slot_name = '${database.name}'`)).toEqual([]);
  });

  test('the record alone can be dropped, after someone dropped the slot', async () => {
    await run('setup').end();
    await database.query(`select pg_drop_replication_slot('${database.name}')`);
    const dropped = await cli(project.dir, 'slot', 'drop', database.name, '--json');
    expect(JSON.parse(dropped.stdout)).toMatchObject({ ok: true, existed: false, hadRecord: true });
  });

  test('publication show', async () => {
    expect((await cli(project.dir, 'publication', 'show')).stdout).toContain('does not exist');
    await database.query('create table public.keyless (a int)');
    await run('setup').end();
    await database.query('create table public.later (id int primary key)');
    const view = JSON.parse((await cli(project.dir, 'publication', 'show', '--json')).stdout) as Record<
      string,
      unknown
    >;
    expect(view).toMatchObject({
      exists: true,
      ours: true,
      tables: [
        {
          name: 'public.a',
          columns: ['id', 't'],
          rowFilter: null,
          identity: 'primary key',
          copied: true,
          insertsOnly: false,
        },
      ],
      left: [{ name: 'public.keyless' }],
      uncopied: ['public.later'],
    });
    expect((await cli(project.dir, 'publication', 'show')).stdout).toMatch(
      /public\.a[\s\S]*left out:[\s\S]*public\.keyless[\s\S]*public\.later/,
    );
  });
});

describe('tail', () => {
  const slots = (): Promise<unknown> =>
    database.query('select count(*)::int as n from pg_replication_slots where database = current_database()');

  test('streams beside a running process, filters, ends by --limit, leaves no slot', async () => {
    await database.query('create table public.b (id int primary key, big text)');
    const one = run('run');
    await one.until(/"streaming"/);
    const tail = run('tail', '--tables', 'public.b', '--limit', '3');
    const all = run('tail', '--format', 'pretty', '--limit', '5');
    await Promise.all([tail.until(/showing changes/), all.until(/showing changes/)]);
    await database.query(`alter table public.b alter big set storage external`);
    await database.query(
      `begin; insert into public.b values (1, repeat('x', 5000)); insert into public.a values (9001, 'n'); update public.b set id = 2; select pg_logical_emit_message(true, 'note', 'hi'); delete from public.b; commit`,
    );
    const { code, stdout } = await tail.end();
    expect(code).toBe(0);
    const events = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(events).toMatchObject([
      { op: 'c', schema: 'public', table: 'b', seq: 1, before: null, after: { id: 1 } },
      { op: 'u', seq: 3, before: { id: 1 }, after: { id: 2 }, unchanged: ['big'] },
      { op: 'd', seq: 5, before: { id: 2 }, after: null },
    ]);
    expect(
      (await all.end()).stdout
        .trim()
        .split('\n')
        .map((line) => line.split(/\s+/)[1]),
    ).toEqual(['insert', 'insert', 'update', 'message', 'delete']);
    await eventually(slots, [{ n: 1 }]);
  });

  test('Ctrl-C ends it with 0; a closed pipe ends it quietly', async () => {
    await run('setup').end();
    const stopped = run('tail');
    await stopped.until(/showing changes/);
    stopped.child.kill('SIGINT');
    expect(await stopped.end()).toMatchObject({ code: 0, stdout: '' });
    const head = run('tail');
    await head.until(/showing changes/);
    head.child.stdout!.destroy();
    await database.query(`insert into public.a values (7001, 'n')`);
    const { code, stderr } = await head.end();
    expect(code).toBe(0);
    expect(stderr).not.toMatch(/EPIPE|error/);
    await eventually(slots, [{ n: 1 }]);
  });

  test('no publication, a pattern that matches nothing, a server that goes away', async () => {
    const none = await cli(project.dir, 'tail');
    expect(none.code).toBe(1);
    expect(none.stderr).toMatch(/publication "waltide" does not exist[\s\S]*waltide setup/);
    await run('setup').end();
    expect((await cli(project.dir, 'tail', '--tables', 'public.nope')).stderr).toContain('matches no table');
    const lost = run('tail');
    await lost.until(/showing changes/);
    await database.query(
      `select pg_terminate_backend(active_pid) from pg_replication_slots where temporary and database = current_database()`,
    );
    const { code, stderr } = await lost.end();
    expect(code).toBe(1);
    expect(stderr).toMatch(/error: .*\nwhat to do: /);
  });

  test('a large transaction goes through a slow reader whole', async () => {
    await run('setup').end();
    const tail = run('tail', '--format', 'debezium', '--limit', '50000');
    await tail.until(/showing changes/);
    tail.child.stdout!.pause();
    await database.query(`insert into public.a select g, repeat('z', 100) from generate_series(10001, 60000) g`);
    await new Promise((wake) => setTimeout(wake, 1000));
    tail.child.stdout!.resume();
    const { code, stdout } = await tail.end();
    expect(code).toBe(0);
    expect(stdout.trim().split('\n')).toHaveLength(50_000);
  });
});
