import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { resolveConfig } from '../../src/config/load.ts';
import type { ConfigInput } from '../../src/config/schema.ts';
import { Scheduler } from '../../src/control/scheduler.ts';
import { Tracker } from '../../src/postgres/tracked.ts';
import { eventually, log } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let stops: (() => Promise<void>)[];
let folder: string;
beforeEach(async () => {
  database = await createDatabase();
  folder = await mkdtemp(join(tmpdir(), 'waltide-schedule-'));
  stops = [];
});
afterEach(async () => {
  await Promise.all(stops.map((stop) => stop()));
  await database.drop();
});

type Schedule = NonNullable<ConfigInput['schedules']>[number];

/** User code that does what `body` says, with `run`, `deps` and an `sql` of its own. */
async function userModule(body: string): Promise<string> {
  const path = join(folder, `job-${Math.random().toString(36).slice(2)}.mjs`);
  await writeFile(
    path,
    `import pg from ${JSON.stringify(import.meta.resolve('pg'))};
     import { setTimeout as sleep } from 'node:timers/promises';
     async function sql(text, values) {
       const client = new pg.Client({ connectionString: ${JSON.stringify(database.url)} });
       await client.connect();
       try { return (await client.query(text, values)).rows; } finally { await client.end(); }
     }
     export async function run(run, deps) { ${body} }`,
  );
  return path;
}

async function start(schedules: Schedule[]): Promise<{ tracker: Tracker; stop(): Promise<void> }> {
  const config = resolveConfig(
    {
      source: { url: database.url, slot: database.name, tables: ['*.*'] },
      tracking: { heartbeatIntervalMs: 200, heartbeatTimeoutMs: 30_000, retry: { firstMs: 10, maxMs: 10 } },
      schedules,
    },
    folder,
  );
  const { source, tracking } = config;
  const tracker = new Tracker({ source, tracking, log, version: '0', role: 'all' });
  await tracker.open();
  const scheduler = new Scheduler({ config, log, tracker, pipeline: null }, 'all');
  await scheduler.start();
  let stopping: Promise<void> | null = null;
  const stop = (): Promise<void> => (stopping ??= scheduler.stop().then(() => tracker.close()));
  stops.push(stop);
  return { tracker, stop };
}

const EVERY_SECOND = '* * * * * *';
const NEVER = '0 0 1 1 *';

const runsOf = (name: string) =>
  database.query(
    `select status, error_message, sync_metadata -> 'schedule' as schedule, sync_metadata, service_instance
     from waltide.sync_history where sync_type = $1 order by id`,
    [name],
  );
const ago = (name: string, interval: string) =>
  database.query(`update waltide.schedules set due_at = now() - $2::interval where name = $1`, [name, interval]);

describe('schedules', () => {
  it('fire at their time as tracked runs, each occurrence in one process only', async () => {
    const path = await userModule('run.progress({ records: 3 });');
    const schedule: Schedule = { name: 'often', type: 'module', cron: EVERY_SECOND, path };
    await Promise.all([start([schedule]), start([schedule]), start([schedule])]);
    await eventually('it has run', async () => (await runsOf('often')).length >= 5);
    const runs = await runsOf('often');
    const times = runs.map(({ schedule }) => (schedule as { dueAt: string }).dueAt);
    expect(new Set(times).size).toBe(times.length);
    expect([...times].sort()).toEqual(times);
    expect(runs[0]).toMatchObject({ status: 'success', schedule: { type: 'module' } });
    const [status] = await database.query(`select * from waltide.sync_status where sync_type = 'often'`);
    expect(status).toMatchObject({ last_records_processed: '3' });
  });

  it('of a process that was killed are taken over; a failing one does not stop the others', async () => {
    const failing = await userModule(`throw new Error('broken')`);
    const fine = await userModule('');
    const schedules: Schedule[] = [
      { name: 'failing', type: 'module', cron: EVERY_SECOND, path: failing },
      { name: 'fine', type: 'module', cron: EVERY_SECOND, path: fine },
      { name: 'daily', type: 'cleanup', cron: NEVER },
      { name: 'absent', type: 'module', cron: EVERY_SECOND, path: join(folder, 'absent.mjs') },
    ];
    await start(schedules);
    await eventually(
      'both have run',
      async () => (await runsOf('failing')).length > 1 && (await runsOf('fine')).length > 1,
    );
    expect((await runsOf('failing'))[0]).toMatchObject({ status: 'error', error_message: 'broken' });
    expect((await runsOf('fine'))[0]).toMatchObject({ status: 'success' });
    await eventually('it is tried', async () => (await runsOf('absent'))[0]?.status === 'error');
    expect((await runsOf('absent'))[0]).toMatchObject({
      status: 'error',
      error_message: expect.stringMatching(/absent\.mjs cannot be loaded/),
    });
    // Taken by an instance that died before it began.
    await database.query(
      `insert into waltide.instances (id, slot_name, role, host, pid, version, expires_at, stopped_at) values ('dead', '', '', '', 1, '', now(), now());
       update waltide.schedules set taken_by = 'dead' where name = 'daily'`,
    );
    await eventually('it is taken over', async () => (await runsOf('daily'))[0]?.status === 'success');
    expect(await runsOf('daily')).toHaveLength(1);
  });

  it('that were missed are made up for once, each, or not at all', async () => {
    const path = await userModule('');
    const cron = '0 * * * *';
    const schedules: Schedule[] = (['none', 'once', 'all'] as const).map((catchUp) => ({
      name: catchUp,
      type: 'module',
      cron,
      path,
      catchUp,
    }));
    const first = await start(schedules);
    await eventually(
      'they are known',
      async () => (await database.query('select 1 from waltide.schedules')).length === 3,
    );
    // A new schedule owes nothing.
    expect(await database.query('select 1 from waltide.sync_history')).toEqual([]);
    await first.stop();
    for (const { name } of schedules) await ago(name, '5 hours 10 minutes');
    await start(schedules);
    await eventually('all are made up for', async () => (await runsOf('all')).length >= 5);
    await eventually('once', async () => (await runsOf('once'))[0]?.status === 'success');
    await eventually('none', async () => {
      const [row] = await database.query(`select note from waltide.schedules where name = 'none'`);
      return row?.note !== null;
    });
    expect(await runsOf('once')).toMatchObject([
      { status: 'success', schedule: { late: true, missedBefore: expect.any(Number) } },
    ]);
    expect(await runsOf('none')).toEqual([]);
    expect(await database.query(`select note from waltide.schedules where name = 'none'`)).toMatchObject([
      { note: expect.stringMatching(/^missed: no process ran at /) },
    ]);
    const all = (await runsOf('all')).map(({ schedule }) => Date.parse((schedule as { dueAt: string }).dueAt));
    expect(all.slice(1).map((time, i) => time - all[i]!)).toEqual(all.slice(1).map(() => 3_600_000));
  });

  it('skip, wait or cancel where the last run still goes on', async () => {
    // Each holds on until it is told.
    await database.query('create table gate (open bool); insert into gate values (false)');
    const path = await userModule(
      `for (;;) {
         run.signal.throwIfAborted();
         if ((await sql('select open from gate'))[0].open) return;
         await sleep(50);
       }`,
    );
    const schedules: Schedule[] = (['skip', 'wait', 'cancel'] as const).map((overlap) => ({
      name: overlap,
      type: 'module',
      cron: EVERY_SECOND,
      path,
      overlap,
    }));
    await start(schedules);
    await eventually('one is skipped', async () => {
      const [row] = await database.query(`select note from waltide.schedules where name = 'skip'`);
      return /"skip" is being done already: run \d+ of instance/.test(String(row?.note));
    });
    await eventually('one is cancelled', async () => (await runsOf('cancel')).length > 2);
    expect((await runsOf('cancel'))[0]).toMatchObject({ status: 'error', error_message: '"cancel" was cancelled' });
    await eventually('one waits', async () => {
      const [row] = await database.query(`select note from waltide.schedules where name = 'wait'`);
      return row?.note === 'one waits for its turn already';
    });
    expect(await runsOf('skip')).toMatchObject([{ status: 'in_progress' }]);
    expect(await runsOf('wait')).toMatchObject([{ status: 'in_progress' }]);
    await database.query('update gate set open = true');
    await eventually('they go on', async () => (await runsOf('skip')).length > 1 && (await runsOf('wait')).length > 1);
    expect((await runsOf('wait'))[0]).toMatchObject({ status: 'success' });
  });
});
