import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import type { Failpoint } from '../../src/failpoint.ts';
import { Writer } from '../../src/write/writer.ts';
import { catchUp, eventually, log, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';

const CHILD = fileURLToPath(new URL('./worker-child.ts', import.meta.url));
const POINTS: readonly Failpoint[] = ['before-operations-commit', 'after-operations-commit'];

let database: TestDatabase;
let config: Config;
const children = new Set<ChildProcess>();

beforeAll(async () => {
  database = await createDatabase();
  // The database chooses the key: made twice, there are two rows.
  await database.query('create table entries (id int generated always as identity primary key, n int not null)');
  ({ config } = testPipeline(database));
  await catchUp(config);
});

afterAll(async () => {
  for (const child of children) child.kill('SIGKILL');
  await database.drop();
});

/** With its end: it may have died by the time that its first word is read. */
async function startWorker(failpoint: string | null): Promise<{ child: ChildProcess; exited: Promise<unknown[]> }> {
  const child = spawn(process.execPath, ['--import', 'tsx', CHILD, JSON.stringify(config)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...(failpoint === null ? {} : { WALTIDE_FAILPOINT: failpoint }) },
  });
  children.add(child);
  child.on('exit', () => children.delete(child));
  const exited = once(child, 'exit');
  await Promise.race([once(child.stdout!, 'data'), exited]);
  return { child, exited };
}

it('every queued write is made exactly once, in order, however often its worker is killed', {
  timeout: 300_000,
}, async () => {
  const seed = Number(process.env.WALTIDE_TEST_SEED ?? Date.now() % 100_000);
  const random = new Random(seed);
  const writer = new Writer({ config, log });
  const ids: string[] = [];
  let stopped = false;
  const queueing = (async () => {
    for (let n = 0; !stopped; n++) {
      const operation = { table: 'entries', type: 'create', data: { n }, consistency: 'weak' } as const;
      ids.push((await writer.write(operation)).id);
      // So that queues are now long, now empty.
      await sleep(n % 200 < 100 ? 2 : 25);
    }
  })();
  for (let round = 0; round < 6; round++) {
    const point = round % 2 === 0 ? `${POINTS[(round >> 1) % POINTS.length]!}@${1 + random.int(3)}` : null;
    const { child, exited } = await startWorker(point);
    if (point === null) {
      await sleep(random.int(300));
      child.kill('SIGKILL');
    }
    expect((await exited)[1], `seed ${seed}, round ${round}: it was to die at ${point}`).toBe('SIGKILL');
  }
  stopped = true;
  await queueing;
  const { child: last } = await startWorker(null);
  const states = async (): Promise<unknown> =>
    (await database.query('select state, count(*)::int as n from waltide.operations group by 1')).map((row) => ({
      ...row,
    }));
  const all = [{ state: 'committed', n: ids.length }];
  await eventually('the queue is empty', async () => JSON.stringify(await states()) === JSON.stringify(all));
  const rows = await database.query('select n from entries order by id');
  expect(
    rows.map(({ n }) => n),
    `seed ${seed}`,
  ).toEqual(ids.map((_id, n) => n));
  expect((await writer.get(ids.at(-1)!)).lsn).not.toBeNull();
  last.kill('SIGKILL');
  await writer.close();
});
