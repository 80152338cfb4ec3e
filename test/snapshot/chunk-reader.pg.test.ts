import { afterEach, beforeEach, expect, it } from 'vitest';
import { resolveConfig } from '../../src/config/load.ts';
import { connectSource, withSession } from '../../src/postgres/session.ts';
import { ChunkReader } from '../../src/snapshot/chunk-reader.ts';
import { describeTable, type TableShape } from '../../src/snapshot/table-shape.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let shape: TableShape;
let readers: ChunkReader[];
let connect: () => ReturnType<typeof connectSource>;

beforeEach(async () => {
  database = await createDatabase();
  await database.query(
    'create table t (id int primary key); insert into t select generate_series(1, 1000); create publication p for table t',
  );
  const [table] = await database.query(`select 't'::regclass::oid::int as oid, 'public' as schema, 't' as table`);
  const { source } = resolveConfig({ source: { url: database.url, tables: ['*.*'] } });
  shape = await withSession(source, 'test', (client) => describeTable(client, ['p'], table as never));
  connect = () => connectSource(source, 'test');
  readers = [];
});
afterEach(async () => {
  for (const reader of readers) reader.close();
  await database.drop();
});

/** Reads a hundred rows after a key, at so many a second. */
function readerAt(rowsPerSecondMax: number) {
  const reader = new ChunkReader(connect, { rowsMax: 1000, bytesMax: 2 ** 20, rowsPerSecondMax, groups: true });
  readers.push(reader);
  return (after: number | null, signal = new AbortController().signal) =>
    reader.read(shape, { after: after === null ? null : [String(after)], limit: 100 }, null, signal);
}

it('waits until the rows of before have had their time', async () => {
  const read = readerAt(200);
  expect((await read(null))!.count).toBe(100);
  const began = performance.now();
  expect((await read(100))!.count).toBe(100);
  // Half a second; a timer may come a little early.
  expect(performance.now() - began).toBeGreaterThan(400);
});

it('holds no lock while it waits, and can be stopped', async () => {
  const read = readerAt(1);
  await read(null);
  const stop = new AbortController();
  const next = read(100, stop.signal);
  next.catch(() => {});
  for (let looks = 0; looks < 3; looks++)
    expect(await database.query(`select pid from pg_locks where relation = 't'::regclass`)).toEqual([]);
  stop.abort();
  await expect(next).rejects.toMatchObject({ name: 'AbortError' });
});
