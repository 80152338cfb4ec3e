import { expect, it } from 'vitest';
import type { WriteRequest } from '../../src/write/operation.ts';
import { Writer } from '../../src/write/writer.ts';
import { eventually, log, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedPostgres } from '../support/shared-postgres.ts';

const PATIENCE_MS = 60_000;

/** `writes` with a running pipeline. */
async function withWriter(
  database: TestDatabase,
  writes: (write: (request: Omit<WriteRequest, 'table'>) => Promise<unknown>) => Promise<void>,
): Promise<void> {
  const { config } = testPipeline(database);
  const running = start(config);
  await eventually('streaming', () => running.pipeline.status().ready, PATIENCE_MS);
  const writer = new Writer({ config, log, sinks: running.pipeline });
  try {
    await writes((request) =>
      writer.write({ table: 'public.item', consistency: 'strong', timeoutMs: PATIENCE_MS, ...request }),
    );
  } finally {
    await writer.close();
    await running.stop();
    await database.drop();
  }
}

it('only the columns that a publication carries can be written', async () => {
  const database = await createDatabase();
  await database.query("create table item (id int primary key, shown text, hidden text default 'its own')");
  await database.query(`create publication ${database.name} for table item (id, shown)`);
  await withWriter(database, async (write) => {
    await write({ type: 'create', data: { id: 1, shown: 'a' } });
    for (const data of [{ hidden: 'x' }, { shown: 'b', hidden: 'x' }])
      await expect(write({ type: 'update', primaryKey: 1, data })).rejects.toMatchObject({
        code: 'WRITE_INVALID',
        message: 'public.item: it has no captured column "hidden"',
        help: 'There are: id, shown.',
      });
    expect(await database.query('select * from item')).toEqual([{ id: 1, shown: 'a', hidden: 'its own' }]);
  });
}, 300_000);

it('also on PostgreSQL 14', async () => {
  const database = await createDatabase(await ensureSharedPostgres(14));
  await database.query(
    'create table item (id int primary key, twice int generated always as (id * 2) stored, at date)',
  );
  await withWriter(database, async (write) => {
    expect(await write({ type: 'create', data: { id: 2, at: '2026-01-31' } })).toMatchObject({ state: 'applied' });
    expect(await write({ type: 'update', primaryKey: '2', data: { at: null } })).toMatchObject({ state: 'applied' });
    expect(await database.query('select * from item')).toEqual([{ id: 2, twice: 4, at: null }]);
    expect(await write({ type: 'delete', primaryKey: { id: 2 } })).toMatchObject({ state: 'applied' });
  });
}, 180_000);
