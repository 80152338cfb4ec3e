import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { catchUp, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { cli, makeProject } from './support.ts';

let database: TestDatabase;
let other: TestDatabase;
let project: { dir: string; remove(): Promise<void> };

beforeEach(async () => {
  database = await createDatabase();
  other = await createDatabase();
  for (const one of [database, other]) await one.query('create table t (id int primary key)');
  project = await makeProject({
    source: { url: database.url, slot: database.name, publication: database.name, tables: ['public.*'] },
    sinks: [{ name: 'analytics', type: 'duckdb', path: './analytics.duckdb' }],
  });
});
afterEach(async () => {
  await project.remove();
  await other.drop();
  await database.drop();
});

interface Listed {
  readonly name: string;
  readonly owner: string;
  readonly orphan: boolean;
  readonly note: string | null;
  readonly drop: string | null;
}

async function listed(): Promise<Map<string, Listed>> {
  const { stdout } = await cli(project.dir, 'slot', 'list', '--json');
  return new Map((JSON.parse(stdout) as Listed[]).map((one) => [one.name, one]));
}

describe('slot list', () => {
  test('names slots of ours that nobody uses, in this database and others, and how to drop them', async () => {
    const old = `${database.name}_old`;
    await catchUp(testPipeline(database, {}, { slot: old }).config);
    await catchUp(testPipeline(other).config);
    await cli(project.dir, 'run', '--until-caught-up');
    const slots = await listed();
    expect(slots.get(old)).toMatchObject({ owner: 'waltide', orphan: true, drop: `waltide slot drop ${old}` });
    expect(slots.get(other.name)).toMatchObject({
      owner: 'waltide',
      orphan: true,
      drop: `waltide slot drop ${other.name} --force`,
    });
    expect(slots.get(database.name)).toMatchObject({
      owner: 'this',
      orphan: false,
      note: expect.stringContaining('`waltide run` does'),
    });
    const { stdout } = await cli(project.dir, 'slot', 'list');
    expect(stdout).toMatch(new RegExp(`${old}: nobody uses it.*to drop it: waltide slot drop ${old}`));

    expect((await cli(project.dir, 'slot', 'drop', old)).code).toBe(0);
    expect((await cli(project.dir, 'slot', 'drop', other.name)).stderr).toMatch(/not made by Waltide in this database/);
    expect((await cli(project.dir, 'slot', 'drop', other.name, '--force')).code).toBe(0);
    const left = await listed();
    expect(left.has(old) || left.has(other.name)).toBe(false);
  });

  test('names records whose slot is gone, and a slot without a record', async () => {
    const gone = `${database.name}_gone`;
    await catchUp(testPipeline(database, {}, { slot: gone }).config);
    await database.query('select pg_drop_replication_slot($1)', [gone]);
    await database.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [database.name]);
    const slots = await listed();
    expect(slots.get(gone)).toMatchObject({
      orphan: true,
      note: 'the slot is gone',
      drop: `waltide slot drop ${gone}`,
    });
    expect(slots.get(database.name)).toMatchObject({ owner: 'this', note: expect.stringContaining('not recorded') });
  });

  test('a slot of the same name in another database is told apart, everywhere', async () => {
    await other.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [database.name]);
    try {
      expect((await listed()).get(database.name)).toMatchObject({
        note: expect.stringContaining(`belongs to database "${other.name}": choose another source.slot`),
      });
      const refused = await cli(project.dir, 'run', '--until-caught-up');
      expect(refused.code).toBe(1);
      expect(refused.stderr).toContain(`belongs to database "${other.name}" of this server, not to "${database.name}"`);
      expect(refused.stderr).toContain('choose another one in source.slot');
    } finally {
      await other.query('select pg_drop_replication_slot($1)', [database.name]);
    }
  });
});
