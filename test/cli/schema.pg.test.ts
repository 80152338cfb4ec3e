import { afterEach, beforeEach, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { cli, makeProject } from './support.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
const run = (...argv: string[]): ReturnType<typeof cli> => cli(project.dir, ...argv);

beforeEach(async () => {
  database = await createDatabase();
  const { url, name } = database;
  project = await makeProject({
    source: { url, slot: name, publication: name, tables: ['public.*'] },
    sinks: [{ name: 'd', type: 'duckdb', path: 'd.duckdb' }],
  });
});
afterEach(async () => {
  await database.drop();
  await project.remove();
});

const words = async (table = 't'): Promise<string[]> =>
  (JSON.parse((await run('schema', 'history', table, '--json')).stdout) as { words: string[] }[]).flatMap(
    (change) => change.words,
  );

it('tells every change of a table in words, once, however often the stream comes by', async () => {
  await database.query(
    "create type mood as enum ('sad', 'ok'); create table t (id int primary key, a varchar(5), m mood)",
  );
  expect(await run('setup', '--ddl')).toMatchObject({ code: 0 });
  expect(await run('setup', '--ddl')).toMatchObject({ code: 0, stdout: 'the capture trigger is installed\n' });
  for (const statement of [
    "alter table t add note text default 'x', add n numeric(12,2) not null default 0",
    'alter table t rename a to b',
    'alter table t drop n',
    'alter table t replica identity full',
    "alter type mood rename value 'sad' to 'blue'; alter type mood add value 'happy'",
    'alter table t drop constraint t_pkey, add primary key (id, b)',
    'alter table t alter b drop not null',
  ])
    await database.query(statement).catch(() => {});
  expect(await run('run', '--until-caught-up')).toMatchObject({ code: 0 });
  const expected = [
    'seen first, with id integer, a varchar(5), m public.mood',
    "added column note text default 'x'::text",
    'added column n numeric(12,2) default 0',
    'renamed column a to b',
    'dropped column n',
    'replica identity: primary key → full row',
    "column m: label 'sad' renamed to 'blue'",
    "column m: new label 'happy'",
    'column b: not null',
    'key: (id) → (id, b)',
  ];
  expect(await words()).toEqual(expected);
  await run('run', '--until-caught-up');
  expect(await words('public.t')).toEqual(expected);
  const { stdout } = await run('schema', 'history', 't');
  expect(stdout).toMatch(/ALTER TABLE +added column note text default/);
  expect(stdout).toMatch(/ALTER TYPE +column m: label/);
});

it('without the trigger tells what the rows that follow show', async () => {
  await database.query('create table t (id int primary key, a int)');
  expect(await run('setup')).toMatchObject({ code: 0 });
  await database.query('insert into t values (1, 1); alter table t add b int; alter table t drop a');
  await database.query('insert into t values (2, 2); alter table t alter b type bigint; insert into t values (3, 3)');
  expect((await run('run', '--until-caught-up')).code).toBe(0);
  await run('run', '--until-caught-up');
  expect(await words()).toEqual([
    'seen first, with id integer, a integer',
    'added column b integer',
    'dropped column a',
    'column b: integer → bigint',
  ]);
});

it('says so where nothing is recorded, and takes the trigger away', async () => {
  await database.query('create table t (id int primary key)');
  const none = await run('schema', 'history', 'nowhere.t');
  expect(none.code).toBe(1);
  expect(none.stderr).toMatch(/nothing is recorded of table nowhere\.t/);
  expect(await run('setup', '--no-ddl')).toMatchObject({ code: 0, stdout: 'the capture trigger is taken away\n' });
});
