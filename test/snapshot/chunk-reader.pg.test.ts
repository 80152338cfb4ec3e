import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { resolveConfig } from '../../src/config/load.ts';
import { connectSource, withSession } from '../../src/postgres/session.ts';
import { ChunkReader } from '../../src/snapshot/chunk-reader.ts';
import { RateLimit } from '../../src/snapshot/context.ts';
import { describeTable } from '../../src/snapshot/table-shape.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

it('reads no further than there is room for', async () => {
  await database.query(
    `create table wide (id int primary key, note text);
     insert into wide select i, repeat('x', 500) from generate_series(1, 30000) i; create publication p for table wide`,
  );
  const [table] = await database.query(`select 'wide'::regclass::oid::int as oid, 'public' as schema, 'wide' as table`);
  const { source } = resolveConfig({ source: { url: database.url, tables: ['*.*'] } });
  const shape = await withSession(source, 'test', (client) => describeTable(client, ['p'], table as never));
  const reader = new ChunkReader(() => connectSource(source, 'test'));
  const waiting: (() => void)[] = [];
  let told = 0;
  const chunk = reader.read(shape, { after: null, limit: 30_000 }, null, {
    bytesMax: 2 ** 30,
    room: (rows) => {
      told += rows;
      return new Promise<void>((resolve) => waiting.push(resolve));
    },
  });
  let lets = 0;
  for (let done = false; !done; ) {
    await vi.waitUntil(() => waiting.length > 0, 20_000);
    const before = told;
    // It has come as far as it may: nothing more comes by itself.
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(told).toBe(before);
    expect(waiting).toHaveLength(1);
    waiting.pop()!();
    lets++;
    done = await Promise.race([
      chunk.then(() => true),
      vi.waitUntil(() => waiting.length > 0, 20_000).then(() => false),
    ]);
  }
  expect(lets).toBeGreaterThan(3);
  expect((await chunk)!.count).toBe(30_000);
  expect(told).toBe(30_000);
  reader.close();
});

it('counts rows in the order in which they came, and asks for no more at once than a few seconds bring', async () => {
  vi.useFakeTimers();
  try {
    const { signal } = new AbortController();
    const rate = new RateLimit(1000);
    expect(rate.limit(131_072)).toBe(5000);
    expect(rate.limit(7)).toBe(7);
    expect(new RateLimit(null).limit(131_072)).toBe(131_072);
    await rate.take(3000, signal);
    let taken = false;
    const next = rate.take(1, signal).then(() => (taken = true));
    await vi.advanceTimersByTimeAsync(2900);
    expect(taken).toBe(false);
    await vi.advanceTimersByTimeAsync(200);
    await next;
  } finally {
    vi.useRealTimers();
  }
});
