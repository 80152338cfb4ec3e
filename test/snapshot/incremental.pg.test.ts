import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Config, ConfigInput } from '../../src/config/schema.ts';
import { ModelSink } from '../support/model-sink.ts';
import { catchUp, eventually, type RunningPipeline, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

let database: TestDatabase;
let sink: ModelSink;
let running: RunningPipeline | null = null;

beforeEach(async () => {
  database = await createDatabase();
  sink = new ModelSink();
});
afterEach(async () => {
  await running?.stop();
  running = null;
  await database.drop();
});

function configure(snapshot: ConfigInput['snapshot'] = {}, source: Partial<ConfigInput['source']> = {}): Config {
  return testPipeline(
    database,
    { sinks: [], snapshot: { chunkRows: 50, tablesIntervalMs: 200, ...snapshot } },
    { keylessTables: 'insert-only', ...source },
  ).config;
}

/** Asks as `waltide snapshot start` does. */
async function ask(table: string, extra: Record<string, unknown> = {}): Promise<string> {
  const { sinks = null, where = null, rate = null, kind = 'incremental' } = extra;
  let id = '';
  // The pipeline may have asked for one itself: the first copy leaves a table that is truncated under it to a later snapshot.
  await eventually(`${table} has no other snapshot`, async () => {
    const [row] = await database.query(
      `insert into waltide.snapshots (id, slot_name, table_oid, schema_name, table_name, kind, sinks, where_sql, rows_per_second_max, reason)
       select substr(md5(random()::text), 1, 12), $1, c.oid, n.nspname, c.relname, $3, $4, $5, $6, 'test'
       from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = $2::regclass on conflict do nothing returning id`,
      [database.name, table, kind, sinks, where, rate],
    );
    id = (row?.id as string | undefined) ?? '';
    return id !== '';
  });
  return id;
}

async function stateOf(id: string): Promise<Record<string, unknown>> {
  const [row] = await database.query('select * from waltide.snapshots where id = $1', [id]);
  return row!;
}

const ended = (id: string): Promise<void> =>
  eventually(`snapshot ${id} ends`, async () =>
    ['completed', 'cancelled', 'failed'].includes((await stateOf(id)).state as string),
  );

/** Differences between the source and the sink, row by row as text. */
async function differences(tables: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const table of tables) {
    const { rows } = await import('pg').then(async ({ default: pg }) => {
      const client = new pg.Client({
        connectionString: database.url,
        options: '-c timezone=UTC -c extra_float_digits=3 -c intervalstyle=postgres -c bytea_output=hex',
      });
      await client.connect();
      try {
        const columns = await client.query(
          'select attname from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum',
          [table],
        );
        const list = columns.rows.map(
          ({ attname }) =>
            `case when pg_typeof("${attname}") = 'boolean'::regtype then left("${attname}"::text, 1) else "${attname}"::text end`,
        );
        return await client.query<unknown[]>({ text: `select ${list.join(', ')} from ${table}`, rowMode: 'array' });
      } finally {
        await client.end();
      }
    });
    const have = sink.rows(table);
    if (!have) {
      found.push(`${table} is not live`);
      continue;
    }
    const count = new Map<string, number>();
    for (const row of rows) count.set(JSON.stringify(row), (count.get(JSON.stringify(row)) ?? 0) + 1);
    for (const row of have) count.set(JSON.stringify(row), (count.get(JSON.stringify(row)) ?? 0) - 1);
    for (const [row, n] of count)
      if (n !== 0) found.push(`${table}: ${n > 0 ? 'missing' : 'extra'} ${row.slice(0, 200)}`);
  }
  return found.slice(0, 10);
}

async function settle(config: Config): Promise<void> {
  await running?.stop();
  running = null;
  await catchUp(config, { sinks: [sink] });
}

describe('incremental snapshot', () => {
  it('reads tables again under live writes, and the target equals the source', async () => {
    const config = configure();
    await database.query(SCHEMA);
    await runWorkload(database.url, 1, AbortSignal.timeout(1500));
    running = start(config, { sinks: [sink] });
    const writing = new AbortController();
    const writers = [2, 3].map((seed) => runWorkload(database.url, seed, writing.signal));
    await eventually('all live', () => TABLES.every((table) => sink.rows(table) !== undefined));
    for (let round = 0; round < 3; round++) {
      const ids = [
        await ask('account'),
        await ask('sales.order_line'),
        await ask('renamed_key'),
        await ask('event_log'),
      ];
      await Promise.all(ids.map(ended));
      for (const id of ids) expect(await stateOf(id)).toMatchObject({ state: 'completed', error: null });
    }
    writing.abort();
    await Promise.all(writers);
    await settle(config);
    expect(await differences(TABLES)).toEqual([]);
  });

  it('ends while rows move all the time, with values that the WAL leaves out', async () => {
    const config = configure();
    await database.query(
      `create table t (id int primary key, n int, body text); alter table t alter body set storage external;
       insert into t select i, 0, repeat(i::text, 3000) from generate_series(0, 199) i`,
    );
    running = start(config, { sinks: [sink] });
    await eventually('live', () => sink.rows('public.t') !== undefined);
    const mover = new pg.Client(database.url);
    await mover.connect();
    let stopped = false;
    const moving = (async () => {
      for (let i = 0; !stopped; i++)
        await mover.query('update t set id = id + 200, n = n + 1 where id % 200 = $1', [(i * 37) % 200]);
    })();
    try {
      const id = await ask('t');
      await ended(id);
      expect(await stateOf(id)).toMatchObject({ state: 'completed', error: null });
    } finally {
      stopped = true;
      await moving;
      await mover.end();
    }
    await settle(config);
    expect(await differences(['public.t'])).toEqual([]);
  });

  it.each([
    ['citext', ''],
    ['one', 'create domain one as citext;'],
    ['two', 'create domain one as citext; create domain two as one;'],
  ])("goes by the key's own order: %s", async (type, domains) => {
    const config = configure({ chunkRows: 500 });
    await database.query(
      `create extension citext; ${domains} create table t (id ${type} collate "C" primary key, n int);
       insert into t select case when i % 2 = 0 then upper(md5(i::text)) else md5(i::text) end, i from generate_series(1, 2000) i`,
    );
    running = start(config, { sinks: [sink] });
    await eventually('live', () => sink.rows('public.t') !== undefined);
    const id = await ask('t');
    await ended(id);
    expect(await stateOf(id)).toMatchObject({ state: 'completed', error: null });
    await settle(config);
    expect(await differences(['public.t'])).toEqual([]);
  });
});

describe('snapshots of several tables', () => {
  it('go on while one of them waits for an old transaction that has written to its table', async () => {
    const config = configure({ workers: 1 });
    await database.query('create table busy (id int primary key); create table calm (id int primary key)');
    running = start(config, { sinks: [sink] });
    await eventually('live', () => sink.rows('public.calm') !== undefined);
    const open = new pg.Client(database.url);
    await open.connect();
    try {
      await open.query('begin; insert into busy values (1)');
      const busy = await ask('busy');
      await eventually('it has begun', async () => (await stateOf(busy)).begun === true);
      await ended(await ask('calm'));
      expect((await stateOf(busy)).state).toBe('running');
      await open.query('commit');
      await ended(busy);
      expect((await stateOf(busy)).state).toBe('completed');
    } finally {
      await open.end();
    }
  });
});

describe('snapshot of a table without a key', () => {
  it('can be cancelled while it waits for older transactions, and lets the stream go on', async () => {
    // The slot's own patience: far more than this test's.
    const config = configure({}, { slotCreateWaitMs: 600_000 });
    await database.query(
      'create table keyless (x int); alter table keyless replica identity full; create table other (id int primary key)',
    );
    running = start(config, { sinks: [sink] });
    await eventually('live', () => sink.rows('public.keyless') !== undefined);
    // Not a writer of the table: only the slot waits for it.
    const open = new pg.Client(database.url);
    await open.connect();
    try {
      await open.query('begin; insert into other values (1)');
      const id = await ask('keyless');
      await eventually('its slot waits', async () => {
        const rows = await database.query(
          "select from pg_stat_activity where datname = current_database() and query like 'CREATE_REPLICATION_SLOT%' and state = 'active'",
        );
        return rows.length > 0;
      });
      await database.query('insert into other values (2)');
      await database.query("update waltide.snapshots set state = 'cancelling'; notify waltide_snapshots");
      await eventually('cancelled', async () => (await stateOf(id)).state === 'cancelled');
      await eventually('it streams', () => sink.rows('public.other')?.length === 1);
    } finally {
      await open.end();
    }
  });

  it('is taken again where the table was rewritten right after its point: to that it looks empty', async () => {
    const proxy = await TcpProxy.before(database.url);
    try {
      const config = configure({}, { url: proxy.through(database.url) });
      await database.query('create table keyless (x int, y int); alter table keyless replica identity full');
      await database.query('insert into keyless select i, i from generate_series(1, 100) i');
      running = start(config, { sinks: [sink] });
      await eventually('live', () => sink.rows('public.keyless')?.length === 100);
      let rewritten = 0;
      proxy.wire = async (piece) => {
        if (piece.includes('SET TRANSACTION SNAPSHOT') && rewritten++ === 0)
          await database.query('alter table keyless alter y type bigint');
        return [piece];
      };
      const id = await ask('keyless');
      await ended(id);
      expect(await stateOf(id)).toMatchObject({ state: 'completed', error: null });
      expect(rewritten).toBeGreaterThan(1);
      await settle(config);
      expect(sink.rows('public.keyless')).toHaveLength(100);
    } finally {
      await running?.stop();
      running = null;
      await proxy.close();
    }
  });
});
