import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { resolveConfig } from '../../src/config/load.ts';
import type { Config } from '../../src/config/schema.ts';
import { WaltideError } from '../../src/errors.ts';
import { Tracker } from '../../src/postgres/tracked.ts';
import { eventually, log } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';

const CHILD = fileURLToPath(new URL('./tracked-child.ts', import.meta.url));

let database: TestDatabase;
let trackers: Tracker[];
let children: ChildProcess[];
beforeEach(async () => {
  database = await createDatabase();
  trackers = [];
  children = [];
});
afterEach(async () => {
  for (const child of children) child.kill('SIGKILL');
  await Promise.all(trackers.map((tracker) => tracker.close()));
  await database.drop();
});

function configOf(url = database.url, tracking: object = {}): Config {
  return resolveConfig({
    source: { url, tables: ['*.*'], slot: database.name, connectTimeoutMs: 30_000 },
    tracking: {
      heartbeatIntervalMs: 200,
      heartbeatTimeoutMs: 20_000,
      retry: { attemptsMax: 3, firstMs: 10, maxMs: 20 },
      ...tracking,
    },
  });
}

async function tracker(config = configOf()): Promise<Tracker> {
  const made = new Tracker({ source: config.source, tracking: config.tracking, log, version: '0', role: 'test' });
  trackers.push(made);
  await made.open();
  return made;
}

async function child(types: string): Promise<{ process: ChildProcess; instance: string }> {
  const process_ = spawn(process.execPath, ['--import', 'tsx', CHILD, JSON.stringify(configOf()), types], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(process_);
  const [line] = (await once(process_.stdout, 'data')) as [Buffer];
  return { process: process_, instance: line.toString().trim() };
}

/** As if the time were up after which the silent count as dead. */
const expire = (instances: readonly string[]) =>
  database.query(`update waltide.instances set expires_at = now() - interval '1 second' where id = any($1)`, [
    instances,
  ]);

const one = async (sql: string, ...values: unknown[]) => (await database.query(sql, values))[0]!;
const fails = (code: string) => expect.objectContaining({ code });

describe('a tracked run', () => {
  it('records its success, how far it is while it runs, and where the next one goes on', async () => {
    const { tracked } = await tracker();
    const latest = new Date('2026-11-20T12:00:00Z');
    const result = await tracked(
      'main_submissions',
      async (run) => {
        expect(run.last).toEqual({ at: null, latest: null });
        run.progress({ records: 7, metadata: { page: 2 } });
        await eventually('progress is visible', async () => {
          const row = await one('select * from waltide.sync_history where id = $1', run.id);
          return row.records_processed === '7' && row.status === 'in_progress';
        });
        expect(await one('select * from waltide.sync_status')).toMatchObject({ last_sync_status: 'in_progress' });
        run.progress({ records: 12, latest });
        return 'done';
      },
      { metadata: { form: 'a', nul: '\u0000' } },
    );
    expect(result).toBe('done');
    expect(await one('select * from waltide.odk_sync_status')).toMatchObject({
      sync_type: 'main_submissions',
      last_sync_timestamp: latest,
      last_sync_status: 'success',
      last_error_message: null,
      successful_sync_count: '1',
      failed_sync_count: '0',
      last_records_processed: '12',
    });
    expect(await one('select * from waltide.odk_sync_history')).toMatchObject({
      status: 'success',
      records_processed: '12',
      sync_metadata: { form: 'a', nul: '�', page: 2, latest: latest.toISOString() },
    });
    await tracked('main_submissions', async (run) => {
      expect(run.last).toEqual({ at: latest, latest: latest.toISOString() });
    });
  });

  it('has views with the older systems’ names and columns', async () => {
    const { tracked } = await tracker();
    await tracked('snapshot:public.orders', async (run) => run.progress({ records: 3, latest: 'id-9' }));
    await tracked('cleanup', async () => {});
    const columns = async (view: string) =>
      (
        await database.query(
          `select column_name from information_schema.columns where table_schema = 'waltide' and table_name = $1 order by ordinal_position`,
          [view],
        )
      )
        .map(({ column_name }) => column_name)
        .join();
    expect(await columns('odk_sync_status')).toBe(
      'sync_type,last_sync_timestamp,last_attempt_timestamp,last_sync_status,last_error_message,successful_sync_count,failed_sync_count,last_records_processed,created_at,updated_at',
    );
    expect(await columns('odk_sync_history')).toBe(
      'id,sync_type,sync_timestamp,status,records_processed,duration_seconds,error_message,sync_metadata,service_instance',
    );
    expect(await columns('sync_metadata')).toBe(
      'id,sync_type,table_name,last_sync_timestamp,last_sync_id,records_synced,sync_status,error_message,sync_duration_seconds,created_at,updated_at',
    );
    const rows = await database.query('select * from waltide.sync_metadata order by sync_type');
    expect(rows).toMatchObject([
      { sync_type: 'cleanup', table_name: '*', sync_status: 'success', last_sync_id: null },
      { sync_type: 'snapshot', table_name: 'public.orders', records_synced: '3', last_sync_id: 'id-9' },
    ]);
    expect(rows[0]!.id).toMatch(/^[0-9a-f-]{36}$/);
  });

  it('tries again what may pass, a bounded number of times, and says of what kind an error was', async () => {
    const made = await tracker();
    const { tracked } = made;
    const list = () => made.list();
    let attempts = 0;
    await tracked('flaky', async () => {
      if (++attempts < 3) throw Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    });
    expect(attempts).toBe(3);
    attempts = 0;
    const reset = Object.assign(new Error('fetch failed'), { cause: { code: 'ECONNRESET' } });
    const failing = async (): Promise<void> => {
      attempts++;
      throw reset;
    };
    await expect(tracked('flaky', failing)).rejects.toBe(reset);
    expect(attempts).toBe(3);
    await expect(tracked('flaky', failing, { retry: false })).rejects.toBe(reset);
    expect(attempts).toBe(4);
    const classes: [unknown, string, number][] = [
      [new TypeError('x is not a function'), 'internal', 1],
      [new SyntaxError('Unexpected token'), 'data', 1],
      [Object.assign(new Error('full'), { code: 'ENOSPC' }), 'storage', 3],
      [new WaltideError('CONFIG_INVALID', 'no', 'do'), 'config', 1],
      [new WaltideError('SINK_REJECTED', 'no', 'do'), 'data', 1],
      [new WaltideError('SOURCE_UNREACHABLE', 'no', 'do'), 'network', 3],
    ];
    for (const [error, kind, times] of classes) {
      attempts = 0;
      await expect(
        tracked('classes', async () => {
          attempts++;
          throw error;
        }),
      ).rejects.toBe(error);
      const [record] = await list();
      expect([record!.errorClass, attempts], String(error)).toEqual([kind, times]);
    }
    await expect(tracked('sql', () => database.query('select 1/0'))).rejects.toMatchObject({ code: '22012' });
    expect((await list())[0]).toMatchObject({ errorClass: 'data', error: 'division by zero' });
    await expect(tracked('sql', () => database.query('select * from nowhere'))).rejects.toMatchObject({
      code: '42P01',
    });
    expect((await list())[0]).toMatchObject({ errorClass: 'database' });
    expect(await one(`select * from waltide.sync_status where sync_type = 'flaky'`)).toMatchObject({
      last_sync_status: 'error',
      last_error_message: 'fetch failed',
      successful_sync_count: '1',
      failed_sync_count: '2',
    });
  });

  it('is the only one of its type; other types do not care, and one that waits has its turn', async () => {
    const [a, b] = [await tracker(), await tracker()];
    let release: () => void = () => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    const id = await a.start('one', () => held);
    await expect(b.tracked('one', async () => 'never')).rejects.toEqual(fails('RUN_BUSY'));
    await expect(a.tracked('one', async () => 'never')).rejects.toEqual(fails('RUN_BUSY'));
    await expect(b.tracked('other', () => Promise.reject(new Error('mine alone')))).rejects.toThrow('mine alone');
    expect(await b.tracked('other', async () => 'done')).toBe('done');
    const waiting = [a, b].map((tracker) => tracker.tracked('one', async () => 'later', { wait: true }));
    expect(await b.get(id)).toMatchObject({ id, syncType: 'one', status: 'in_progress', instance: a.instance });
    release();
    expect(await Promise.all(waiting)).toEqual(['later', 'later']);
    expect((await a.list({ syncType: 'one' })).map(({ status }) => status)).toEqual(['success', 'success', 'success']);
    expect(await a.get('999999')).toBeNull();
    await expect(a.get('1; drop')).rejects.toEqual(fails('USAGE'));
    await expect(a.tracked('', async () => {})).rejects.toEqual(fails('USAGE'));
  });

  it('that was refused leaves nothing behind: no failed run, and what was before counts', async () => {
    const { tracked } = await tracker();
    const refuse = () => Promise.reject(new WaltideError('REPLAY', 'no', 'Ask for another.'));
    const options = {
      retry: false,
      refused: (error: unknown) => error instanceof WaltideError && error.code === 'REPLAY',
    };
    await expect(tracked('replay:a', refuse, options)).rejects.toEqual(fails('REPLAY'));
    expect(await one('select * from waltide.sync_status')).toMatchObject({
      ...{ last_sync_status: 'pending', last_attempt_timestamp: null, failed_sync_count: '0' },
    });
    await tracked('replay:a', async () => {}, options);
    await expect(tracked('replay:a', refuse, options)).rejects.toEqual(fails('REPLAY'));
    expect(await one('select * from waltide.sync_status')).toMatchObject({
      last_sync_status: 'success',
      failed_sync_count: '0',
    });
    expect(await database.query('select status from waltide.sync_history')).toEqual([{ status: 'success' }]);
    await expect(
      tracked('replay:a', () => Promise.reject(new WaltideError('SINK', 'away', '')), options),
    ).rejects.toEqual(fails('SINK'));
    expect(await one('select * from waltide.sync_status')).toMatchObject({
      last_sync_status: 'error',
      failed_sync_count: '1',
    });
  });

  it('is cancelled from another process', async () => {
    const [a, b] = [await tracker(), await tracker()];
    const id = await a.start('long', (run) => sleep(60_000, undefined, { signal: run.signal }));
    expect(await b.cancel(id)).toBe(true);
    await eventually('it has ended', async () => (await b.get(id))!.status === 'error');
    expect(await b.get(id)).toMatchObject({ error: '"long" was cancelled', errorClass: null });
    expect(await b.cancel(id)).toBe(false);
    expect(await b.tracked('long', async () => 'again')).toBe('again');
  });

  it('is told to end when its process closes, and recorded as interrupted', async () => {
    const [a, b] = [await tracker(), await tracker()];
    const id = await a.start('long', (run) => sleep(60_000, undefined, { signal: run.signal }));
    await a.close();
    expect(await b.get(id)).toMatchObject({ status: 'error', error: 'interrupted: the process is stopping' });
    expect(await b.tracked('long', async () => 'at once')).toBe('at once');
    expect(await database.query('select stopped_at is null as up from waltide.instances order by started_at')).toEqual([
      { up: false },
      { up: true },
    ]);
  });

  it.each(['cut', 'freeze'] as const)('comes through a connection that is lost (%s)', async (how) => {
    const proxy = await TcpProxy.before(database.url);
    try {
      const a = await tracker(configOf(proxy.through(database.url)));
      const b = await tracker();
      const through = a.tracked('through', async (run) => {
        const pid = await sessionOf(a);
        proxy[how]();
        await eventually('it has a new session', async () => ![null, pid].includes(await sessionOf(a)));
        await expect(b.tracked('through', async () => {})).rejects.toEqual(fails('RUN_BUSY'));
        run.progress({ records: 1 });
        return 'through';
      });
      expect(await through).toBe('through');
      expect(await b.list({ syncType: 'through' })).toMatchObject([{ status: 'success', records: 1 }]);
    } finally {
      await proxy.close();
    }
  });

  it('is let go where the source is out of reach for too long, and another takes over', async () => {
    const proxy = await TcpProxy.before(database.url);
    try {
      const a = await tracker(configOf(proxy.through(database.url), { heartbeatTimeoutMs: 6000 }));
      const b = await tracker();
      let aborted = 0;
      const id = await a.start('away', async (run) => {
        run.signal.addEventListener('abort', () => (aborted = performance.now()));
        await sleep(60_000, undefined, { signal: run.signal });
      });
      // Nobody listens there.
      proxy.aim(1);
      proxy.cut();
      let began = 0;
      await eventually('another does it', () =>
        b
          .tracked('away', async () => (began = performance.now()))
          .then(
            () => true,
            () => false,
          ),
      );
      expect(aborted).toBeGreaterThan(0);
      expect(aborted).toBeLessThan(began);
      expect(await b.get(id)).toMatchObject({ status: 'error', error: expect.stringMatching(/^abandoned: /) });
      proxy.aim(Number(new URL(database.url).port));
      await eventually('it is back', () =>
        a.list().then(
          () => true,
          () => false,
        ),
      );
      expect(await a.tracked('away', async () => 'mine again')).toBe('mine again');
    } finally {
      await proxy.close();
    }
  });
});

/** Server process of the session that holds an instance's lock. */
async function sessionOf({ instance }: Tracker): Promise<unknown> {
  const rows = await database.query(
    `select pid from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())
       and (classid::bigint << 32) + objid::bigint = hashtextextended('waltide instance ' || $1, 0)`,
    [instance],
  );
  return rows[0]?.pid ?? null;
}

describe('several processes', () => {
  it('never do one sync type at once, whichever of them is killed; the dead ones’ runs are closed as abandoned', async () => {
    await database.query(
      'create table violations (sync_type text); create table pieces (sync_type text, instance text)',
    );
    await tracker(); // makes the schema
    const types = 'a,b';
    const dead: string[] = [];
    const living = await Promise.all([child(types), child(types), child(types)]);
    const pieces = async () => Number((await one('select count(*) from pieces')).count);
    for (let round = 0; round < 4; round++) {
      const before = await pieces();
      await eventually('work goes on', async () => (await pieces()) > before + 5);
      // Whoever is at work now, and is held there: so that there is something to abandon.
      const atWork = async (instances: readonly string[]) =>
        (
          await database.query('select instance_id from waltide.active_runs where instance_id = any($1)', [instances])
        )[0];
      let victim = living[0]!;
      await eventually('one is at work', async () => {
        const row = await atWork(living.map(({ instance }) => instance));
        victim = living.find(({ instance }) => instance === row?.instance_id) ?? victim;
        victim.process.kill('SIGSTOP');
        if (await atWork([victim.instance])) return true;
        victim.process.kill('SIGCONT');
        return false;
      });
      victim.process.kill('SIGKILL');
      await once(victim.process, 'close');
      await eventually('the server knows that it is gone', async () => {
        const sessions = await database.query('select from pg_stat_activity where application_name = $1', [
          victim.instance,
        ]);
        return sessions.length === 0;
      });
      await expire([victim.instance]);
      dead.push(victim.instance);
      living[living.indexOf(victim)] = await child(types);
    }
    await eventually('nothing of the dead is left', async () => {
      const left = await database.query('select 1 from waltide.active_runs where instance_id = any($1)', [dead]);
      return left.length === 0;
    });
    const after = await pieces();
    await eventually('both types go on', async () => (await pieces()) > after + 5);
    expect(await database.query('select * from violations')).toEqual([]);
    expect(
      await database.query(
        `select distinct status, error_class, error_message ~ '^abandoned: instance ' as told from waltide.sync_history where service_instance = any($1) and status <> 'success'`,
        [dead],
      ),
    ).toEqual([{ status: 'error', error_class: 'internal', told: true }]);
    // The counts and the history say the same.
    expect(
      await database.query(
        `select s.sync_type, s.successful_sync_count - count(*) filter (where h.status = 'success') as successes,
           s.failed_sync_count - count(*) filter (where h.status = 'error') as failures
         from waltide.sync_status s join waltide.sync_history h using (sync_type) group by s.sync_type order by 1`,
      ),
    ).toEqual([
      { sync_type: 'a', successes: '0', failures: '0' },
      { sync_type: 'b', successes: '0', failures: '0' },
    ]);
  }, 300_000);

  it('may start at once on an empty database, and state survives them', async () => {
    await database.query(
      'create table violations (sync_type text); create table pieces (sync_type text, instance text)',
    );
    const first = await Promise.all([child('x'), child('x'), child('y')]);
    await eventually('work is done', async () => Number((await one('select count(*) from pieces')).count) > 10);
    await eventually('of both types', async () => {
      const done = await database.query('select from waltide.sync_status where successful_sync_count > 0');
      return done.length === 2;
    });
    for (const { process: each } of first) each.kill('SIGKILL');
    await Promise.all(first.map(({ process: each }) => once(each, 'close')));
    await expire(first.map(({ instance }) => instance));
    const made = await tracker();
    await eventually('the dead are found', async () => (await made.list({ status: 'in_progress' })).length === 0);
    const status = await made.status();
    expect(status.map(({ syncType }) => syncType)).toEqual(['x', 'y']);
    for (const { successes, createdAt, updatedAt } of status) {
      expect(successes).toBeGreaterThan(0);
      expect(+updatedAt).toBeGreaterThan(+createdAt);
    }
  }, 300_000);
});
