import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { ConfigInput } from '../../src/config/schema.ts';
import { withDuckdb } from '../support/compare.ts';
import { catchUp, type RunningPipeline, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { cli, makeProject, type Outcome } from './support.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
let path: string;
let running: RunningPipeline | null = null;
let config: ReturnType<typeof testPipeline>['config'];

beforeEach(async () => {
  database = await createDatabase();
  await database.query(
    'create table t (id int primary key, n numeric(6,2), v text); alter table t alter v set storage external',
  );
  ({ config, path } = testPipeline(database));
  for (const sink of config.sinks) sink.onUnrepresentable = 'dead-letter';
  project = await makeProject(config as ConfigInput);
  await catchUp(config);
  await database.query(
    `insert into t values (1, 'NaN', repeat('x', 5000)), (2, 'NaN', 'two'), (3, 'NaN', 'three'), (4, 4, 'four')`,
  );
  await database.query('update t set n = 1.5 where id = 1');
  await database.query(`update t set n = 2.5, v = 'new' where id = 2`);
  await catchUp(config);
});

afterEach(async () => {
  await running?.stop();
  running = null;
  await project.remove();
  await database.drop();
});

interface Listed {
  readonly id: number;
  readonly row: string;
  readonly op: string;
  readonly state: string;
  readonly supersededBy: number | null;
  readonly closedReason: string | null;
}

const run = (...argv: string[]): Promise<Outcome> => cli(project.dir, 'dead-letter', ...argv);
const json = async (...argv: string[]): Promise<Listed[]> => JSON.parse((await run(...argv, '--json')).stdout);
const rows = (): Promise<readonly unknown[][]> =>
  withDuckdb(path, (query) => query('select id, n::varchar, v[:5] from t order by id')) as Promise<
    readonly unknown[][]
  >;

it('lists, shows and exports letters', async () => {
  const all = await json('list', '--state', 'open', 'resolved', 'superseded');
  expect(all.map(({ row, op, state, supersededBy }) => [row, op, state, supersededBy]).sort()).toEqual([
    ['["1"]', 'c', 'superseded', expect.any(Number)],
    ['["1"]', 'u', 'open', null],
    ['["2"]', 'c', 'resolved', null],
    ['["3"]', 'c', 'open', null],
  ]);
  const { stdout } = await run('list', '--table', 't');
  expect(stdout).toMatch(/\["3"\]\s+c\s+open\s+1 .* SINK_REJECTED: column "n": the value NaN does not fit/);
  expect(stdout.split('\n').filter((line) => line.includes('open'))).toHaveLength(2);
  expect((await run('list', '--table', 'other')).stdout).toBe('no dead letters\n');
  const three = all.find(({ row }) => row === '["3"]')!;
  const shown = (await run('show', String(three.id))).stdout;
  expect(shown).toContain('table: t\n');
  expect(shown).toContain('  n (numeric): NaN\n');
  expect(await run('show', '999999')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('no dead letter 999999'),
  });

  const file = join(project.dir, 'letters.jsonl');
  expect(await run('export', '--output', file)).toMatchObject({ code: 0, stderr: '2 letters\n' });
  const lines = readFileSync(file, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(lines.map(({ row }) => row).sort()).toEqual(['["1"]', '["3"]']);
  expect(await run('export', '--output', file)).toMatchObject({ code: 2 });
  expect(existsSync(file)).toBe(true);
});

it('discards with a reason, and retries only what no later change has overtaken, unless forced', {
  timeout: 300_000,
}, async () => {
  const letters = await json('list', '--state', 'open', 'resolved', 'superseded');
  const id = (row: string, state: string): string =>
    String(letters.find((letter) => letter.row === row && letter.state === state)!.id);
  expect(await run('discard', id('["3"]', 'open'))).toMatchObject({ code: 2 });
  expect(await run('discard', id('["3"]', 'open'), '--reason', 'test data')).toMatchObject({ stdout: '1 discarded\n' });
  expect(await json('list', '--state', 'discarded')).toMatchObject([{ row: '["3"]', closedReason: 'test data' }]);
  expect(await run('retry')).toMatchObject({ code: 2, stderr: expect.stringContaining('--all') });
  expect(await run('retry', id('["2"]', 'resolved'))).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/is resolved: a later change of the row was applied \(\w+\/\w+#1\)/),
  });
  expect(await run('retry', id('["1"]', 'superseded'))).toMatchObject({
    code: 1,
    stderr: expect.stringContaining(`Retry letter ${id('["1"]', 'open')}`),
  });

  running = start(config);
  // Its unchanged value is in the letter before it.
  expect(await run('retry', '--all')).toMatchObject({ code: 0, stdout: '1 applied, 0 refused again\n' });
  expect(await run('retry', '--force', id('["2"]', 'resolved'))).toMatchObject({
    code: 1,
    stdout: '0 applied, 1 refused again\n',
  });
  await running.stop();
  running = null;
  // What was forced and does not fit changes nothing: the row is as the later change has it.
  expect(await json('list', '--state', 'resolved')).toMatchObject([{ row: '["2"]' }]);
  expect(await rows()).toEqual([
    [1, '1.50', 'xxxxx'],
    [2, expect.anything(), expect.anything()],
    [4, '4.00', 'four'],
  ]);
});
