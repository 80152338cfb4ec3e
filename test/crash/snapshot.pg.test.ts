import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Failpoint } from '../../src/failpoint.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { startWaltide, waltide, writeConfig } from '../support/waltide-process.ts';
import { handled, runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

/** Where it dies, and at which coming there. */
const IN_FIRST_COPY: readonly [Failpoint, number][] = [
  ['after-slot', 1],
  ['during-copy', 2],
  ['after-table-copied', 2],
];
const IN_SNAPSHOTS: readonly [Failpoint, number][] = [
  ['before-chunk', 4],
  ['after-chunk-before-save', 5],
  ['after-chunk-saved', 3],
  ['before-snapshot-end', 2],
];

/** Of a table whose chunks are large enough to be applied beside the stream. */
const BESIDE: readonly [Failpoint, number][] = [
  ['chunk-loaded', 1],
  ['chunk-loaded', 2],
  ['chunk-committed', 1],
  ['chunk-committed', 2],
];

const SEED = Number(process.env.WALTIDE_CRASH_SEED ?? Date.now() % 1_000_000);

describe(`kill -9 in a snapshot, seed ${SEED}`, () => {
  let database: TestDatabase;
  let file = '';
  let path = '';
  beforeAll(async () => {
    database = await createDatabase();
    await database.query(SCHEMA);
    await database.query(
      'create table wide (a text, b int, body text, primary key (a, b)); alter table wide alter body set storage external',
    );
    await database.query(
      "insert into wide select 'k' || i % 7, i, repeat(i::text, 700) from generate_series(1, 1500) i",
    );
    await database.query(
      "create table long (id int primary key, n int, note text); insert into long select i, 0, 'n' || i from generate_series(1, 60000) i",
    );
    await runWorkload(database.url, 1, AbortSignal.timeout(700));
    const { url, name } = database;
    const project = writeConfig({
      source: { url, slot: name, publication: name, tables: ['public.*', 'sales.*'], heartbeatIntervalMs: 500 },
      snapshot: { chunkRows: 100, chunkBytesMax: 400_000, tablesIntervalMs: 300 },
      sinks: [{ name: 'analytics', type: 'duckdb', path: 'target.duckdb', batch: { rowsMax: 500, lingerMs: 5 } }],
    });
    file = project.file;
    path = join(project.folder, 'target.duckdb');
  });
  afterAll(() => database.drop());

  const tables = [...TABLES, 'public.wide', 'public.long'];

  async function dies(point: Failpoint, times: number, args: readonly string[]): Promise<void> {
    const writing = new AbortController();
    const workload = runWorkload(database.url, SEED + times, writing.signal);
    // Keys that move where the cursor has passed, with values that the WAL does not carry.
    const moving = handled(move(writing.signal));
    const process = startWaltide(['run', ...args, '--config', file], { WALTIDE_FAILPOINT: `${point}@${times}` });
    const { signal, stderr } = await process.finished;
    writing.abort();
    await Promise.all([workload, moving]);
    expect(signal, stderr).toBe('SIGKILL');
  }

  async function move(signal: AbortSignal): Promise<void> {
    for (let i = 0; !signal.aborted; i++) {
      await database.query('update wide set a = $1 where b = $2', [`k${i % 9}`, 1 + ((i * 37) % 1500)]);
      // Rows that are changed again and again, and some everywhere: in chunks that are being applied, too.
      await database.query('update long set n = n + 1 where id % 1500 = $1 or id % 5000 = 7', [i % 1500]);
      await database.query('delete from long where id = $1', [1 + ((i * 7919) % 60_000)]);
      await database.query("insert into long values ($1, 0, 'back') on conflict do nothing", [
        1 + ((i * 3001) % 60_000),
      ]);
      await database.query('update wide set a = a || $1 where b = $2 and length(a) < 9', ['.', 1 + ((i * 91) % 1500)]);
    }
  }

  async function equal(): Promise<void> {
    const done = await waltide(['run', '--until-caught-up', '--config', file]);
    expect(done.code, done.stderr).toBe(0);
    expect(await withDuckdb(path, (query) => differences(database.url, query, tables))).toEqual([]);
  }

  it.each(IN_FIRST_COPY)(
    '%s: the first copy is finished, or begins again',
    async (point, times) => {
      await dies(point, times, ['--recopy']);
      const [record] = await database.query('select tables from waltide.slots');
      const filled = (record!.tables as { filled: boolean }[]).filter((table) => table.filled).length;
      expect(filled).toBeLessThan(tables.length);
      await equal();
    },
    300_000,
  );

  it.each(IN_SNAPSHOTS)(
    '%s, time %i: goes on where it was',
    async (point, times) => {
      await database.query('delete from waltide.snapshots');
      for (const table of tables) if (table !== 'public.long') await ask(table);
      await dies(point, times, []);
      const before = await database.query(
        'select id, table_name, state, cursor_key, rows_done::int as rows from waltide.snapshots',
      );
      expect(before.some(({ state }) => state === 'running')).toBe(true);
      await equal();
      for (const { id, rows, table_name: table } of before) {
        const [after] = await database.query(
          'select state, rows_done::int as rows from waltide.snapshots where id = $1',
          [id],
        );
        expect(after!.state).toBe('completed');
        // What was saved is not read again; a table without a key is read in one piece, of which nothing is saved.
        if (table !== 'event_log')
          expect(after!.rows as number, table as string).toBeGreaterThanOrEqual(rows as number);
      }
    },
    300_000,
  );

  it.each(BESIDE)(
    '%s, time %i: a chunk beside the stream is read again, and no row is there twice',
    async (point, times) => {
      await database.query('delete from waltide.snapshots');
      await ask('public.long', 20_000);
      await dies(point, times, []);
      await equal();
    },
    300_000,
  );

  async function ask(table: string, chunkRows: number | null = null): Promise<void> {
    await database.query(
      `insert into waltide.snapshots (id, slot_name, table_oid, schema_name, table_name, reason, chunk_rows)
       select substr(md5(random()::text), 1, 12), $1, c.oid, n.nspname, c.relname, 'test', $3
       from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = $2::regclass`,
      [database.name, table, chunkRows],
    );
  }
});
