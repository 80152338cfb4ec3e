import { afterEach, beforeEach, expect, test } from 'vitest';
import { hashed, MASK_KEY } from '../support/masks.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { cli, makeProject, start } from './support.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;

beforeEach(async () => {
  database = await createDatabase();
  await database.query('create table t (id text primary key, mail text)');
  const rules = [{ columns: ['public.t.*'], mask: 'hash' as const }];
  project = await makeProject({
    source: { url: database.url, slot: database.name, tables: ['public.*'], protect: { key: MASK_KEY, rules } },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
  });
});
afterEach(async () => {
  await project.remove();
  await database.drop();
});

test('tail shows masked columns as they leave the source, in every format', async () => {
  expect((await cli(project.dir, 'run', '--until-caught-up')).code).toBe(0);
  const formats = ['json', 'debezium', 'pretty'];
  const tails = formats.map((format) => start(project.dir, 'tail', '--limit', '2', '--format', format));
  for (const tail of tails) await tail.until(/showing changes/);
  await database.query("insert into t values ('klartext 1', 'klartext 2'); delete from t");
  for (const tail of tails) {
    const { stdout, code } = await tail.end();
    expect(code).toBe(0);
    expect(stdout).toContain(hashed('klartext 1').slice(0, 50));
    expect(stdout).not.toContain('klartext');
  }
});
