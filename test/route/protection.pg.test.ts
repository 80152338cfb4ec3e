import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { installDdlCapture } from '../../src/postgres/ddl-capture.ts';
import { differences, type Masked, withDuckdb } from '../support/compare.ts';
import {
  HASHED,
  LAST_FOUR,
  type Protect,
  protect,
  REDACTED,
  WORKLOAD_MASKED,
  WORKLOAD_RULES,
} from '../support/masks.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { askForSnapshot } from '../support/snapshots.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

async function installTrigger({ url }: TestDatabase): Promise<void> {
  const client = await connect(url, { applicationName: 'test', timeoutMs: 5000 });
  await installDdlCapture(client).finally(() => client.end());
}

const rows = (path: string, sql: string): Promise<readonly (readonly unknown[])[]> =>
  withDuckdb(path, (query) => query(sql));

describe('masked columns, PostgreSQL → DuckDB', { timeout: 300_000 }, () => {
  it('are the mask of the source after the first copy, after every kind of change and after a copy beside changes', async () => {
    const { config, path } = testPipeline(database, { snapshot: { chunkRows: 40 } }, WORKLOAD_RULES);
    const compare = (): Promise<string[]> =>
      withDuckdb(path, (query) => differences(database.url, query, TABLES, WORKLOAD_MASKED));
    await database.query(SCHEMA);
    await runWorkload(database.url, 1, AbortSignal.timeout(500));
    expect(await catchUp(config)).toEqual([]);
    expect(await compare()).toEqual([]);
    for (let seed = 2; seed < 4; seed++) {
      await runWorkload(database.url, seed, AbortSignal.timeout(800));
      expect(await catchUp(config)).toEqual([]);
      expect(await compare(), `seed ${seed}`).toEqual([]);
    }
    const { stop } = start(config);
    const changes = runWorkload(database.url, 9, AbortSignal.timeout(2500));
    for (const table of ['account', 'event_log', 'renamed_key']) await askForSnapshot(database, config, table);
    await changes;
    await eventually('the snapshots are over', async () => {
      const left = await database.query("select from waltide.snapshots where state in ('pending', 'running')");
      return left.length === 0;
    });
    await stop();
    expect(await catchUp(config)).toEqual([]);
    expect(await compare()).toEqual([]);
  });

  it('refuses what would not be safe, before anything is read', async () => {
    await database.query('create table t (id int primary key, mail text)');
    const refused = (rules: Protect, message: RegExp): Promise<void> =>
      expect(catchUp(testPipeline(database, {}, { protect: rules }).config)).rejects.toThrow(message);
    await refused(protect({ columns: ['*.t.id'], mask: 'redact' }).protect, /public\.t\.id belongs to the key/);
    await refused(
      protect({ columns: ['public.t.email'], mask: 'hash' }).protect,
      /public\.t\.email is no published column of/,
    );
    await refused({ keyFile: '/nowhere', rules: [{ columns: ['public.t.mail'], mask: 'hash' }] }, /cannot be read/);
    const keyless = (): unknown =>
      testPipeline(database, {}, { protect: { rules: [{ columns: ['*.t.mail'], mask: 'hash' }] } });
    expect(keyless).toThrow(/source\.protect: needs keyFile/);
    expect(await database.query('select from pg_replication_slots where slot_name = $1', [database.name])).toEqual([]);
  });

  it.each([true, false])(
    'stay masked when columns come, go, are renamed and change type (told by the trigger: %s)',
    async (told) => {
      const { config, path } = testPipeline(
        database,
        { snapshot: { tablesIntervalMs: 200 } },
        protect(
          { columns: ['public.t.mail', 'public.*.secret*'], mask: 'hash' },
          { columns: ['*.*.code'], mask: 'redact' },
        ),
      );
      await database.query(
        "create table t (id int primary key, mail text, n int); insert into t values (1, 'a@x', 1), (2, 'b@x', 2)",
      );
      await catchUp(config);
      if (told) await installTrigger(database);
      const masked = {
        'public.t.mail': HASHED,
        'public.t.post': HASHED,
        'public.t.secret1': HASHED,
        'public.t.code': REDACTED,
      };
      const compare = (): Promise<string[]> =>
        withDuckdb(path, (query) => differences(database.url, query, ['public.t'], masked));
      for (const step of [
        "alter table t add secret1 text default 'clear default'; insert into t values (3, 'c@x', 3)",
        "alter table t rename mail to post; update t set n = 10 where id = 1; insert into t values (4, 'd@x', 4)",
        "alter table t add plain text; insert into t values (5, 'e@x', 5, null, 'shown')",
        "alter table t drop n; insert into t values (6, 'f@x', 's', 'shown')",
        "alter table t add code int default 7; update t set plain = 'new' where id = 2",
        'alter table t rename to u; alter table u rename to t; delete from t where id = 3',
      ]) {
        await database.query(step);
        expect(await catchUp(config), step).toEqual([]);
        expect(await compare(), step).toEqual([]);
      }
      // Its text is another, so what has left of it is void: it is copied again.
      await database.query('alter table t add secret2 numeric(10,2); update t set secret2 = id');
      await catchUp(config);
      await database.query('alter table t alter secret2 type numeric(10,4)');
      await catchUp(config);
      expect(
        await withDuckdb(path, (query) =>
          differences(database.url, query, ['public.t'], { ...masked, 'public.t.secret2': HASHED }),
        ),
      ).toEqual([]);
      expect(await rows(path, "select count(*) from duckdb_columns() where column_default like '%clear%'")).toEqual([
        [0n],
      ]);
    },
  );

  it('are filled again when rule or key are changed, or all of it is removed', async () => {
    await database.query("create table t (id int primary key, mail text); insert into t values (1, 'a@x'), (2, null)");
    await database.query('create table other (id int primary key, mail text)');
    const shared = testPipeline(database);
    const as = async (source: object, expected: Record<string, Masked>): Promise<void> => {
      await catchUp({
        ...shared.config,
        source: { ...shared.config.source, ...testPipeline(database, {}, source).config.source },
      });
      expect(
        await withDuckdb(shared.path, (query) => differences(database.url, query, ['public.t'], expected)),
      ).toEqual([]);
    };
    await as({}, {});
    await as(protect({ columns: ['public.t.mail'], mask: 'hash' }), { 'public.t.mail': HASHED });
    await as(protect({ columns: ['public.t.*'], mask: 'hash' }), { 'public.t.mail': HASHED, 'public.t.id': HASHED });
    await as(protect({ columns: ['public.t.mail'], mask: 'partial' }), { 'public.t.mail': LAST_FOUR });
    await as({ protect: undefined }, {});
    const asked = await database.query('select schema_name from waltide.snapshots where table_name = $1', ['other']);
    expect(asked).toEqual([]);
  });
});
