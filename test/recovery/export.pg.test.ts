import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { DuckDBInstance } from '@duckdb/node-api';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type ExportWish, exportRequest } from '../../src/control/store-runs.ts';
import type { WaltideError } from '../../src/errors.ts';
import { type SinkColumn, targetOfColumn } from '../../src/sink/duckdb/schema.ts';
import { sourceTextSql } from '../../src/sink/duckdb/source-text.ts';
import { backUpSink, exportSink } from '../../src/sink/registry.ts';
import type { Exported } from '../../src/sink/upkeep.ts';
import { withDuckdb } from '../support/compare.ts';
import { TYPES, TYPES_SQL } from '../support/every-type.ts';
import { inserts, printed } from '../support/every-value.ts';
import {
  catchUp,
  eventually,
  log,
  type RunningPipeline,
  start,
  type TestPipeline,
  testPipeline,
} from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { smallDisk } from '../support/small-disk.ts';

let database: TestDatabase;
let pipeline: TestPipeline;
let running: RunningPipeline | null;
let to: string;
beforeEach(async () => {
  database = await createDatabase();
  pipeline = testPipeline(database);
  running = null;
  to = join(mkdtempSync(join(tmpdir(), 'waltide-export-')), "it's [here] *", 'analytics');
});
afterEach(async () => {
  await running?.stop();
  await database.drop();
});

async function stream(): Promise<RunningPipeline> {
  running = start(pipeline.config);
  await eventually('it streams', () => running!.pipeline.status().ready);
  return running;
}

/** Through the open sink, or from the file where nothing runs. */
function exported(wish: Partial<ExportWish> = {}, signal = new AbortController().signal): Promise<Exported> {
  const { config } = pipeline;
  const live = running?.pipeline.sink('analytics') ?? null;
  return exportSink(config.sinks[0]!, live, exportRequest(config, { to, ...wish }), {
    log,
    watch: { signal, note: () => {} },
  });
}

const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`;

async function rowsOf(sql: string): Promise<readonly (readonly unknown[])[]> {
  const instance = await DuckDBInstance.create(':memory:', {});
  const connection = await instance.connect();
  try {
    await connection.run("SET TimeZone = 'UTC'");
    return (await connection.runAndReadAll(sql)).getRows();
  } finally {
    connection.closeSync();
    instance.closeSync();
  }
}

/** The files of a table, through a path without characters that DuckDB would take for a pattern. */
function parquet({ path, manifest }: Exported, table: string, options = ''): string {
  const link = join(mkdtempSync(join(tmpdir(), 'waltide-link-')), 'export');
  symlinkSync(path, link);
  const { files } = manifest.tables.find((one) => `${one.schema}.${one.table}` === table)!;
  const list = files.map((file) => `'${join(link, file).replaceAll("'", "''")}'`);
  return `read_parquet([${list.join(', ')}]${options})`;
}

test('every value of every type is in the Parquet file as PostgreSQL prints it', async () => {
  await database.query(TYPES_SQL);
  const columns = TYPES.map(({ type }, i) => `c${i} ${type}`);
  await database.query(`create table every (id int primary key, ${columns.join(', ')})`);
  await database.query(
    inserts(
      0,
      TYPES.map(({ values }) => values),
    ),
  );
  await stream();
  const one = await exported();
  const held = await withState('every');
  const texts = held.map((column) => sourceTextSql(targetOfColumn(column), `"${column.name}"`));
  const rows = await rowsOf(`select ${texts.join(', ')} from ${parquet(one, 'public.every')} order by id`);
  const source = await printed(database.url, 'every');
  const wrong = source.flatMap((row, i) =>
    row.flatMap((value, c) =>
      value === rows[i]?.[c] ? [] : [`${TYPES[c - 1]?.type}: ${String(value)} → ${String(rows[i]?.[c])}`],
    ),
  );
  expect(rows.length).toBe(source.length);
  expect(wrong).toEqual([]);
}, 240_000);

/** The columns of a table as the sink holds them. The file is open, so a copy is asked. */
async function withState(table: string): Promise<SinkColumn[]> {
  const copy = join(dirname(pipeline.path), 'state.duckdb');
  await running!.pipeline.sink('analytics')!.copyTo!(copy, new AbortController().signal);
  const [row] = await withDuckdb(copy, (query) =>
    query(`select "columns" from _waltide.tables where table_name = '${table}'`),
  );
  return JSON.parse(String(row![0])) as SinkColumn[];
}

test('all tables of an export are of one position, while transfers between them go on', async () => {
  await database.query(`create table a (id int primary key, balance int); create table b (id int primary key, balance int);
    insert into a select i, 100 from generate_series(1, 200) i; insert into b select i, 100 from generate_series(1, 200) i`);
  await stream();
  let writing = true;
  const writer = (async () => {
    for (let i = 0; writing; i++)
      await database.query(`update a set balance = balance - 1 where id = ${(i % 200) + 1};
        update b set balance = balance + 1 where id = ${((i * 7) % 200) + 1}`);
  })();
  try {
    const lsns: string[] = [];
    for (let i = 0; i < 4; i++) {
      const one = await exported();
      const [[total]] = (await rowsOf(
        `select (select sum(balance) from ${parquet(one, 'public.a')}) + (select sum(balance) from ${parquet(one, 'public.b')})`,
      )) as [[bigint]];
      expect(total).toBe(40_000n);
      expect(one.manifest).toMatchObject({
        format: 'waltide-export',
        rows: 400,
        owner: { sink: 'analytics', slot: database.name },
      });
      lsns.push(one.manifest.lsn);
    }
    expect(new Set(lsns).size).toBeGreaterThan(1);
  } finally {
    writing = false;
    await writer;
  }
  expect(readdirSync(to).filter((name) => name.startsWith('.'))).toEqual([]);
  expect(readdirSync(to).filter((name) => name !== 'latest')).toHaveLength(2);
  expect(readdirSync(dirname(pipeline.path)).filter((name) => name.includes('.copy-'))).toEqual([]);
}, 240_000);

test('partitions, conditions, empty tables and names that are no paths', async () => {
  await database.query(`create schema "../.."; create table "../.."."a/b.c'd""e" (id int primary key, "or der" text);
    insert into "../.."."a/b.c'd""e" values (1, 'x'), (2, 'a/b=c'), (3, null);
    create table nothing (id int primary key, "or der" text)`);
  await catchUp(pipeline.config);
  const one = await exported({ partitionBy: ['or der'], where: 'id <> 2' });
  const name = `../...a/b.c'd"e`;
  expect(one.manifest.tables).toMatchObject([
    { schema: '../..', rows: 2 },
    { table: 'nothing', rows: 0, files: ['public/nothing/data.parquet'] },
  ]);
  expect(
    await rowsOf(`select id, "or der" from ${parquet(one, name, ', hive_partitioning = false')} order by id`),
  ).toEqual([
    [1, 'x'],
    [3, null],
  ]);
  const whole = await exported({ partitionBy: ['or der'], tables: [name] });
  expect(
    await rowsOf(`select "or der", id from ${parquet(whole, name, ', hive_partitioning = false')} order by id`),
  ).toEqual([
    ['x', 1],
    ['a/b=c', 2],
    [null, 3],
  ]);
  expect(readdirSync(dirname(dirname(to)))).toEqual([`it's [here] *`]);
  for (const where of ["true) TO '/tmp/x' --", 'true; drop table nothing', 'nothing_here = 1', '1 /*'])
    await expect(exported({ where })).rejects.toMatchObject({
      code: 'USAGE',
      message: expect.stringContaining('--where'),
    });
  await expect(exported({ partitionBy: ['absent'] })).rejects.toMatchObject({ code: 'USAGE' });
  await expect(exported({ tables: ['absent'] })).rejects.toMatchObject({ code: 'USAGE' });
  expect(readlinkSync(join(to, 'latest'))).toBe(whole.path.slice(to.length + 1));
}, 240_000);

test('a condition reads no file, no address and no other database, whether the stream runs or not', async () => {
  await database.query('create table item (id int primary key); insert into item values (1), (2)');
  const dir = mkdtempSync(join(tmpdir(), 'waltide-secret-'));
  const secret = join(dir, 'secret.txt');
  writeFileSync(secret, 'TOPSECRET');
  const beside = join(to, 'beside.txt');
  mkdirSync(to, { recursive: true });
  writeFileSync(beside, 'TOPSECRET');
  const other = join(dir, 'other.duckdb');
  const conditions = [
    ...[secret, beside, `${to}/../analytics/beside.txt`].map(
      (path) => `error((select content from read_text(${literal(path)})))`,
    ),
    `(select content from read_text('${secret}')) like 'T%'`,
    `(select octet_length(content) from read_blob('${secret}')) > 0`,
    `exists (from read_csv('${secret}'))`,
    `exists (from '${dir}/secret.csv')`,
    `exists (from read_json('${secret}'))`,
    `exists (from read_parquet('${secret}'))`,
    `exists (from sniff_csv('${secret}'))`,
    `exists (from glob('${dir}/*'))`,
    `exists (from glob('/*'))`,
    `exists (from read_csv('http://127.0.0.1:9/x.csv'))`,
    `exists (from read_csv('s3://bucket/x.csv'))`,
    `exists (from duckdb_secrets())`,
    `exists (from query('ATTACH ''${other}'' AS other'))`,
    `true); ATTACH '${other}' AS other; SELECT (true`,
    `true) ; COPY (SELECT 1) TO '${dir}/copied.csv'; SELECT (true`,
    `exists (COPY (SELECT 1) TO '${dir}/copied.csv')`,
    `true); SET enable_external_access = true; SELECT (true`,
    `true); LOAD httpfs; SELECT (true`,
  ];
  const refused = async (): Promise<void> => {
    for (const where of conditions) {
      const error = await exported({ where }).then(
        () => null,
        (reason: unknown) => reason as WaltideError,
      );
      expect(error, where).not.toBeNull();
      expect(`${error!.message} ${error!.help}`, where).not.toContain('TOPSECRET');
    }
    expect(readdirSync(dir)).toEqual(['secret.txt']);
    expect(readdirSync(to)).toEqual(['beside.txt']);
  };
  await stream();
  await refused();
  await running!.stop();
  running = null;
  await refused();
  // The file is as usable as before.
  expect((await exported({ where: 'id = 2' })).manifest.rows).toBe(1);
}, 240_000);

test('what others have put into the directory stays, and a directory of another sink is refused', async () => {
  await database.query('create table t (id int primary key); insert into t select generate_series(1, 10)');
  await catchUp(pipeline.config);
  mkdirSync(join(to, '2020-01-01T000000.000Z'), { recursive: true });
  writeFileSync(join(to, '2020-01-01T000000.000Z', 'mine.txt'), 'mine');
  mkdirSync(join(to, '.waltide-0123456789ab-00000000.new'));
  const first = await exported({ keep: 1 });
  const second = await exported({ keep: 1 });
  expect(existsSync(first.path)).toBe(false);
  expect(JSON.parse(readFileSync(join(to, 'latest', 'manifest.json'), 'utf8'))).toEqual(second.manifest);
  expect(readdirSync(to).sort()).toEqual(
    ['.waltide-0123456789ab-00000000.new', '2020-01-01T000000.000Z', second.path.slice(to.length + 1), 'latest'].sort(),
  );
  const { config } = pipeline;
  const other = { ...config.sinks[0]!, name: 'other' };
  const through = { log, watch: { signal: new AbortController().signal, note: () => {} } };
  await expect(exportSink(other, null, exportRequest(config, { to }), through)).rejects.toMatchObject({
    code: 'USAGE',
    message: expect.stringContaining('holds exports of sink "analytics"'),
  });
}, 240_000);

test('where the disk is full the last export stays, and the disk is as free as before', async (context) => {
  await database.query(`create table t (id int primary key, v text); insert into t values (1, 'small')`);
  await catchUp(pipeline.config);
  to = mkdtempSync(join(tmpdir(), 'waltide-disk-'));
  const disk = smallDisk(to, '1m');
  if (!disk) return context.skip('mounting a small tmpfs takes root');
  try {
    const last = await exported();
    await database.query(`insert into t select i, md5(i::text) || md5((i * 7)::text) from generate_series(2, 60000) i`);
    await catchUp(pipeline.config);
    await stream();
    for (const partitionBy of [[], ['id']]) {
      const where = partitionBy.length > 0 ? 'id < 2000' : null;
      await expect(exported({ partitionBy, where })).rejects.toMatchObject({ code: 'SINK_FULL' });
      expect(JSON.parse(readFileSync(join(to, 'latest', 'manifest.json'), 'utf8'))).toEqual(last.manifest);
      expect(readdirSync(to).filter((name) => name.startsWith('.'))).toEqual([]);
    }
    const backup = join(to, 'saved.duckdb');
    const watch = { signal: new AbortController().signal, note: () => {} };
    const live = running!.pipeline.sink('analytics');
    await expect(backUpSink(pipeline.config.sinks[0]!, live, backup, watch)).rejects.toMatchObject({
      code: 'SINK_FULL',
    });
    expect(readdirSync(to).filter((name) => name.includes('saved'))).toEqual([]);
    disk.grow('60m');
    expect((await exported()).manifest.rows).toBe(60_000);
  } finally {
    await running?.stop();
    running = null;
    disk.remove();
  }
}, 240_000);

test('cancelled, it leaves nothing', async () => {
  await database.query(`create table t (id int primary key); insert into t select generate_series(1, 1000)`);
  await stream();
  await expect(exported({}, AbortSignal.abort(new Error('enough')))).rejects.toThrow('enough');
  expect(existsSync(to)).toBe(false);
  expect(readdirSync(dirname(pipeline.path)).filter((name) => name.includes('.copy-'))).toEqual([]);
}, 120_000);
