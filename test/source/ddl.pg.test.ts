import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import type { Delivery } from '../../src/event/batch.ts';
import { SCHEMA_MESSAGE } from '../../src/event/change-event.ts';
import { relationName } from '../../src/event/relation.ts';
import { readSchemaChange, type SchemaChange } from '../../src/event/schema-change.ts';
import { connect } from '../../src/postgres/connection.ts';
import { ddlCaptureState, installDdlCapture, removeDdlCapture } from '../../src/postgres/ddl-capture.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { catchUp, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { OLDER_VERSIONS } from '../support/postgres-package.ts';
import { ensureSharedPostgres } from '../support/shared-postgres.ts';

interface Told {
  readonly table: string;
  readonly columns: readonly string[];
  readonly change: SchemaChange;
}

/** Keeps what it is told of schemas. */
class SchemaSink extends MemorySink {
  readonly told: Told[] = [];

  override async apply(delivery: Delivery): Promise<boolean> {
    for (const { message, relation } of delivery.events) {
      if (message?.prefix !== SCHEMA_MESSAGE) continue;
      const columns = relation!.columns.map(({ name, attnum }) => `${attnum} ${name}`);
      this.told.push({ table: relationName(relation!), columns, change: readSchemaChange(message.content)! });
    }
    return super.apply(delivery);
  }
}

let database: TestDatabase;
let config: Config;
let sink: SchemaSink;

const run = (): Promise<unknown> => catchUp(config, { sinks: [sink] });

async function admin<T>(work: (client: Awaited<ReturnType<typeof connect>>) => Promise<T>): Promise<T> {
  const client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** What the sinks are told of the statements, one after another. */
async function tell(...statements: string[]): Promise<Told[]> {
  const before = sink.told.length;
  for (const statement of statements) await database.query(statement);
  await run();
  return sink.told.slice(before);
}

beforeEach(async () => {
  database = await createDatabase();
  ({ config } = testPipeline(database, { sinks: [] }));
  sink = new SchemaSink();
});
afterEach(() => database.drop());

describe('the capture trigger', () => {
  async function start(...schema: string[]): Promise<void> {
    for (const statement of schema) await database.query(statement);
    await run();
    await admin(installDdlCapture);
    await run();
    sink.told.length = 0;
  }

  it('tells of columns by number, with what rows of before hold in them', async () => {
    await start('create table t (id int primary key, a varchar(5))', "insert into t values (1, 'x')");
    const [renamed] = await tell('alter table t rename a to b');
    expect(renamed).toMatchObject({ table: 'public.t', columns: ['1 id', '2 b'], change: { rewritten: 'no' } });
    const [added] = await tell(
      `set datestyle = 'German'; set timezone = 'Asia/Tokyo'; alter table t add c timestamptz default '2020-01-01 00:00+00', add d box default '((1,2),(3,4))',
         add e text[] default '{"a,b",NULL}', add f text, add g text default '', add h int not null default 7`,
    );
    expect(added!.change.columns.map(({ name, existing }) => [name, existing])).toEqual([
      ['id', null],
      ['b', null],
      ['c', '2020-01-01 00:00:00+00'],
      ['d', '(3,4),(1,2)'],
      ['e', '{"a,b",NULL}'],
      ['f', null],
      ['g', ''],
      ['h', '7'],
    ]);
    const [again] = await tell('alter table t drop b, add b int');
    expect(again!.columns).toEqual(['1 id', '3 c', '4 d', '5 e', '6 f', '7 g', '8 h', '9 b']);
  });

  it('says what became of values that were there', async () => {
    await start('create table t (id int primary key, a int)', 'insert into t values (1, 1)');
    const cases: [string, SchemaChange['rewritten']][] = [
      ['alter table t alter a type bigint', 'cast'],
      ['alter table t alter a type bigint using a + 1', 'unknown'],
      ['do $$ begin alter table t alter a type int; end $$', 'unknown'],
      ['/* migration 7 */ ALTER  TABLE t ALTER a TYPE bigint;', 'cast'],
      ['alter table t add b uuid default gen_random_uuid()', 'unknown'],
      ['alter table t add c int generated always as (id * 2) stored', 'unknown'],
      ['alter table t add d serial', 'unknown'],
      ['alter table t add e int default 3', 'no'],
      ['alter table t alter e set default 4', 'no'],
    ];
    for (const [statement, expected] of cases) {
      const [told] = await tell(statement);
      expect(told?.change.rewritten ?? 'no', statement).toBe(expected);
    }
  });

  it('follows a table through renames to its drop', async () => {
    await start('create table "odd "".ü" (id int primary key)', 'create schema s');
    const told = await tell(
      'alter table "odd "".ü" set schema s',
      'alter table s."odd "".ü" rename to plain',
      'alter schema s rename to s2',
      'drop schema s2 cascade',
    );
    expect(told.map(({ change }) => change.command)).toEqual([
      'ALTER TABLE',
      'ALTER TABLE',
      'ALTER SCHEMA',
      'DROP SCHEMA',
    ]);
    expect(told.map(({ table }) => table)).toEqual(['s.odd ".ü', 's.plain', 's2.plain', 's2.plain']);
    expect(told.at(-1)!.change.kind).toBe('dropped');
  });

  it('tells of what was committed, in its place, and of nothing that was rolled back', async () => {
    await start('create table t (id int primary key)');
    const told = await tell(
      `begin; insert into t values (1); savepoint s; alter table t add gone int; insert into t values (2, 2); rollback to s;
       alter table t add a int; insert into t values (3, 3); alter table t drop a; insert into t values (4); commit`,
      'begin; alter table t add never int; rollback',
    );
    expect(told.map(({ columns }) => columns)).toEqual([['1 id', '2 a'], ['1 id']]);
    expect(sink.events.slice(-5).map(({ op, key }) => [op, key])).toEqual([
      ['c', '1'],
      ['m', undefined],
      ['c', '3'],
      ['m', undefined],
      ['c', '4'],
    ]);
  });

  it('stands before the rows that come after it, in whatever subtransaction', async () => {
    await start('create table t (id int primary key)');
    const statements = Array.from(
      { length: 20 },
      (_, i) => `savepoint s; alter table t add c${i} int; release s; insert into t values (${i})`,
    );
    await database.query(`begin; ${statements.join('; ')}; commit`);
    await run();
    const expected = statements.flatMap((_, i) => [
      ['m', undefined],
      ['c', String(i)],
    ]);
    expect(sink.events.slice(-40).map(({ op, key }) => [op, key])).toEqual(expected);
  });

  it('tells of types that columns are made of', async () => {
    await start(
      "create type mood as enum ('sad', 'ok'); create domain dm as mood; create type pair as (a int, m mood)",
      'create table t (id int primary key, m mood, d dm, l mood[], p pair)',
    );
    const [added] = await tell("alter type mood add value 'happy' before 'ok'");
    expect(added!.change).toMatchObject({ command: 'ALTER TYPE', rewritten: 'unknown' });
    await database.query('alter table t drop p');
    await run();
    const [plain, renamed] = (
      await tell("alter type mood add value 'angry'", "alter type mood rename value 'sad' to 'blue'")
    ).map(({ change }) => change.rewritten);
    expect([plain, renamed]).toEqual(['no', 'no']);
    const [dropped] = await tell('drop type mood cascade');
    expect(dropped!.columns).toEqual(['1 id']);
  });

  it('reaches the tables below and above: inheritance, partitions', async () => {
    await start(
      'create table root (id int primary key, k int) partition by range (id)',
      'create table leaf1 partition of root for values from (0) to (10)',
      'create table base (id int primary key); create table child () inherits (base); alter table child add primary key (id)',
    );
    const told = await tell('alter table root add a int default 5', 'alter table base add b text default $$x$$');
    expect(told.map(({ table }) => table).sort()).toEqual(['public.base', 'public.child', 'public.root']);
    expect(told[0]!.change.columns.at(-1)).toMatchObject({ name: 'a', existing: '5' });
    const created = await tell('create table leaf2 partition of root for values from (10) to (20)');
    expect(created.map(({ table, change }) => [table, change.rewritten])).toEqual([['public.root', 'no']]);
    const [detached] = await tell('alter table root detach partition leaf2');
    expect(detached!.change.rewritten).toBe('unknown');
    const attached = await tell('alter table root attach partition leaf2 for values from (10) to (20)');
    // The partition was a table of its own in between, and was taken in as one.
    expect(attached.map(({ table, change }) => [table, change.rewritten])).toEqual([
      ['public.root', 'unknown'],
      ['public.leaf2', 'no'],
    ]);
    const gone = await tell('drop table leaf1');
    expect(gone.map(({ table, change }) => [table, change.rewritten])).toEqual([['public.root', 'unknown']]);
  });

  it('leaves out columns that the publication leaves out', async () => {
    await database.query('create table t (id int primary key, a int, b int)');
    await database.query('create publication lists for table t (id, b)');
    ({ config } = testPipeline(database, { sinks: [] }, { publication: 'lists' }));
    await start();
    const [told] = await tell('alter table t rename b to c', 'insert into t values (1, 2, 3)');
    expect(told!.columns).toEqual(['1 id', '3 c']);
    const [more] = await tell('alter publication lists set table t (id, a, c)');
    expect(more!.columns).toEqual(['1 id', '2 a', '3 c']);
    expect(more!.change.columns[1]).not.toHaveProperty('existing');
  });

  it('never makes a command fail, and says where it could not tell', async () => {
    await start('create table t (id int primary key)');
    await database.query('alter function waltide.ddl_describe(oid) rename to broken');
    await database.query('alter table t add a int');
    expect(await tell('insert into t values (1, 1)')).toEqual([]);
    await database.query(`alter database ${database.name} set waltide.ddl_strict = on`);
    await expect(database.query('alter table t add b int')).rejects.toThrow(/ddl_describe/);
  });

  it('can be installed again, taken away, and seen', async () => {
    await start('create table t (id int primary key)');
    const state = (): Promise<string> => admin(ddlCaptureState);
    expect(await state()).toBe('current');
    await database.query('alter event trigger waltide_ddl_end disable');
    expect(await state()).toBe('disabled');
    await database.query("comment on function waltide.ddl_capture() is 'another'");
    expect(await state()).toBe('outdated');
    await admin(installDdlCapture);
    expect(await state()).toBe('current');
    await admin(removeDdlCapture);
    await admin(removeDdlCapture);
    expect(await state()).toBe('absent');
    await admin(installDdlCapture);
    await database.query('drop schema waltide cascade');
    expect(await state()).toBe('absent');
    await database.query('alter table t add a int');
  });

  it('is refused to those who may not, in words', async () => {
    await start('create table t (id int primary key)');
    await admin(removeDdlCapture);
    const role = `${database.name}_user`;
    await database.query(`create role ${role} login password 'x'; grant all on schema waltide to ${role}`);
    const url = new URL(database.url);
    url.username = role;
    url.password = 'x';
    const client = await connect(url.href, { applicationName: 'test', timeoutMs: 5000 });
    try {
      await expect(installDdlCapture(client)).rejects.toMatchObject({ code: 'SOURCE_RIGHTS' });
      await expect(client.query('select 1')).resolves.toBeDefined();
    } finally {
      await client.end();
      await database.query(`drop owned by ${role}; drop role ${role}`);
    }
  });
});

describe.each(OLDER_VERSIONS)('the capture trigger on PostgreSQL %i', (version) => {
  it('tells the same', async () => {
    const older = await createDatabase(await ensureSharedPostgres(version));
    try {
      const { config: olderConfig } = testPipeline(older, { sinks: [] });
      const told = new SchemaSink();
      await older.query("create type mood as enum ('sad'); create table t (id int primary key, m mood)");
      await catchUp(olderConfig, { sinks: [told] });
      const client = await connect(older.url, { applicationName: 'test', timeoutMs: 5000 });
      await installDdlCapture(client).finally(() => client.end());
      for (const statement of [
        "alter table t add a int default 7, add b text default 'x'",
        'alter table t rename a to c',
        'alter table t alter c type bigint',
        "alter type mood rename value 'sad' to 'blue'",
        'drop type mood cascade',
        'create table root (id int primary key) partition by range (id)',
        'drop table t',
      ])
        await older.query(statement);
      await catchUp(olderConfig, { sinks: [told] });
      expect(told.told.map(({ columns, change }) => [change.command, change.rewritten, columns.join()])).toEqual([
        ['SETUP', 'no', '1 id,2 m'],
        ['ALTER TABLE', 'no', '1 id,2 m,3 a,4 b'],
        ['ALTER TABLE', 'no', '1 id,2 m,3 c,4 b'],
        ['ALTER TABLE', 'cast', '1 id,2 m,3 c,4 b'],
        ['ALTER TYPE', 'no', '1 id,2 m,3 c,4 b'],
        ['DROP TYPE', 'no', '1 id,3 c,4 b'],
        // A new table is captured too.
        ['CREATE TABLE', 'no', '1 id'],
        ['DROP TABLE', 'no', '1 id,3 c,4 b'],
      ]);
      expect(told.told[1]!.change.columns.slice(2).map(({ existing }) => existing)).toEqual(['7', 'x']);
    } finally {
      await older.drop();
    }
  });
});
