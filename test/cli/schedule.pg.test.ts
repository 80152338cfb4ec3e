import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { startWaltide, type WaltideProcess } from '../support/waltide-process.ts';
import { cli, makeProject } from './support.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
let running: WaltideProcess | null;
const schedule = (...argv: string[]) => cli(project.dir, 'schedule', ...argv);
const runsOf = (type: string) =>
  database.query(
    'select status, records_processed::int as records, error_class, sync_metadata from waltide.sync_history where sync_type = $1 order by id',
    [type],
  );

const NEVER = '0 0 1 1 *';

beforeEach(async () => {
  running = null;
  database = await createDatabase();
  await database.query('create table a (id int primary key); insert into a select generate_series(1, 500)');
  project = await makeProject({
    source: {
      url: database.url,
      slot: database.name,
      publication: database.name,
      tables: ['public.*'],
      heartbeatIntervalMs: 500,
      retain: { bytes: 100_000_000 },
    },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
    schedules: [
      { name: 'full', type: 'snapshot', tables: ['a'], cron: '0 2 * * *' },
      { name: 'again', type: 'replay', sink: 'analytics', hours: 0.0001, cron: NEVER },
      { name: 'validation', type: 'validate', cron: NEVER, timeZone: 'Europe/Berlin' },
      { name: 'cleanup', type: 'cleanup', cron: '0 4 * * 0', enabled: false },
      { name: 'mine', type: 'module', cron: NEVER, path: 'mine.mjs' },
    ],
  });
  await writeFile(
    join(project.dir, 'mine.mjs'),
    `export async function run(run, { query }) {
       if (!query) throw new TypeError('no pipeline here');
       const { rows } = await query('select count(*) from a', { rowsMax: 1, timeoutMs: 10_000 });
       run.progress({ records: Number(rows[0][0]) });
     }`,
  );
});
afterEach(async () => {
  running?.child.kill('SIGKILL');
  await running?.finished;
  await database.drop();
  await project.remove();
});

test('without a process: what needs none is done here, the rest is refused', async () => {
  expect(await schedule('run', 'nothing')).toMatchObject({ code: 2, stderr: expect.stringContaining('full, again') });
  expect(await schedule('run', 'full')).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/"full" \(snapshot\) needs a running process/),
  });
  expect(await schedule('run', 'cleanup')).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^cleanup is done: run \d+, 0 records/),
  });
  expect(await schedule('run', 'mine')).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/mine failed: .*no pipeline here/),
  });
  const list = await schedule('list');
  expect(list.stdout).toMatch(/full +snapshot +0 2 \* \* \* +UTC .*T02:00:00Z/);
  expect(list.stdout).toMatch(/cleanup +cleanup +0 4 \* \* 0 .* disabled/);
  expect(JSON.parse((await schedule('list', '--json')).stdout)).toHaveLength(5);
}, 300_000);

test('a running process does them; first copy, snapshots and replays are runs too', async () => {
  running = startWaltide(['run', '--config', join(project.dir, 'waltide.json')]);
  await running.saw(/"streaming"/);
  await eventually('the first copy is a run', async () => (await runsOf('snapshot:public.a'))[0]?.status === 'success');
  expect(await runsOf('snapshot:public.a')).toMatchObject([
    { records: 500, sync_metadata: { kind: 'initial', state: 'completed' } },
  ]);
  const full = await schedule('run', 'full');
  expect(full).toMatchObject({ code: 0, stdout: expect.stringMatching(/^full is done: run \d+, 500 records/) });
  await eventually('its table is a run', async () => (await runsOf('snapshot:public.a'))[1]?.status === 'success');
  expect((await runsOf('snapshot:public.a'))[1]).toMatchObject({
    records: 500,
    sync_metadata: { kind: 'incremental' },
  });
  expect((await schedule('run', 'mine')).stdout).toMatch(/^mine is done: run \d+, 500 records/);
  expect((await schedule('run', 'validation')).stdout).toMatch(/^validation is done/);
  expect(await runsOf('validation')).toMatchObject([{ status: 'success', sync_metadata: { ok: true, score: 100 } }]);
  // What somebody asks for by hand is a run of its own type: it must not stand for the schedule's.
  expect((await cli(project.dir, 'validate', 'a', '--key', '1', '--checks', 'data_hash')).code).toBe(0);
  expect(await runsOf('validation:manual')).toMatchObject([{ status: 'success' }]);
  expect(await runsOf('validation')).toHaveLength(1);
  const listed = JSON.parse((await schedule('list', '--json')).stdout) as Record<string, unknown>[];
  expect(listed[0]).toMatchObject({ name: 'full', lastRun: { status: 'success', records: 500 }, note: null });
  expect(JSON.parse((await cli(project.dir, 'instances', '--json')).stdout)).toMatchObject([
    { role: 'all', state: 'alive', slot: database.name },
  ]);
  // Refused or done, it is told: how far the slot goes back decides. A replay that is refused is none, the schedule's run has failed.
  const again = await schedule('run', 'again');
  expect(again.stdout + again.stderr).toMatch(/^again (is done|failed: )/);
  const done = again.code === 0;
  expect(await runsOf('again')).toMatchObject([{ status: done ? 'success' : 'error' }]);
  expect(await runsOf('replay:analytics')).toHaveLength(done ? 1 : 0);
  running.child.kill('SIGTERM');
  expect((await running.finished).code).toBe(0);
  expect((await cli(project.dir, 'instances')).stdout).toBe('no instances\n');
}, 240_000);
