import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { withDuckdb } from '../support/compare.ts';
import { catchUp, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';
import { PoisonSink } from './poison-sink.ts';

const CHILD = fileURLToPath(new URL('./child.ts', import.meta.url));
const ROUNDS = Number(process.env.WALTIDE_LETTER_ROUNDS ?? 4);
const SEED = Number(process.env.WALTIDE_LETTER_SEED ?? Date.now() % 1_000_000);

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

it(`kill -9 between letter and offset neither loses nor doubles a letter: seed ${SEED}`, {
  timeout: 300_000,
}, async () => {
  const random = new Random(SEED);
  await database.query('create table t (id int primary key, n numeric(6,2))');
  const { config, path } = testPipeline(database);
  for (const sink of config.sinks) sink.onUnrepresentable = 'dead-letter';
  const file = join(dirname(path), 'append.jsonl');
  await catchUp(config, { sinks: [new PoisonSink(file)] });
  const poison: number[] = [];
  const good: number[] = [];
  const insert = async (): Promise<void> => {
    for (let transactions = 3 + random.int(4); transactions > 0; transactions--) {
      const values = Array.from({ length: 1 + random.int(30) }, (_, i) => {
        const id = poison.length + good.length + 1;
        // One at least, so that there is something to die at.
        const isPoison = random.int(20) === 0 || i === 0;
        (isPoison ? poison : good).push(id);
        return `(${id}, ${isPoison ? "'NaN'" : id / 10})`;
      });
      await database.query(`insert into t values ${values.join(', ')}`);
    }
  };
  const saved = async (): Promise<number> =>
    Number((await database.query('select coalesce(sum(attempts), 0) as n from waltide.dead_letters'))[0]!.n);
  for (let round = 0; round < ROUNDS; round++) {
    await insert();
    const before = await saved();
    const child = spawn(process.execPath, ['--import', 'tsx', CHILD, JSON.stringify(config), file], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, WALTIDE_FAILPOINT: `after-letter@${1 + random.int(3)}` },
    });
    const [, signal] = (await once(child, 'close')) as [number | null, string | null];
    expect(signal, `round ${round}`).toBe('SIGKILL');
    // It was durable when the process died.
    expect(await saved()).toBeGreaterThan(before);
  }
  expect(await catchUp(config, { sinks: [new PoisonSink(file)] })).toEqual([]);

  const byPosition = (row: unknown): number => Number(JSON.parse((row as { row_name: string }).row_name)[0]);
  for (const sink of ['analytics', 'append']) {
    const open = await database.query(
      "select row_name from waltide.dead_letters where sink = $1 and state = 'open' order by commit_lsn, seq",
      [sink],
    );
    expect(open.map(byPosition), sink).toEqual(poison);
    const all = await database.query('select count(*)::int from waltide.dead_letters where sink = $1', [sink]);
    expect(all, sink).toEqual([{ count: poison.length }]);
  }
  const [append] = [new PoisonSink(file).entries().filter(({ op }) => op === 'c')];
  expect(append!.map(({ after }) => Number(after![0]))).toEqual(good);
  expect(await withDuckdb(path, (query) => query('select id from t order by id'))).toEqual(good.map((id) => [id]));
});
