import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { catchUp, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, startPostgres } from '../support/postgres.ts';

let server: EmbeddedPostgres;
beforeAll(async () => {
  server = await startPostgres();
});
afterAll(() => server.stop());

it('ends, with what to do, where the server fails at one place of the stream again and again', async () => {
  const database = await createDatabase(server.url);
  const sink = new MemorySink();
  const { config } = testPipeline(database, { sinks: [] });
  await database.query('create table t (id int primary key)');
  await catchUp(config, { sinks: [sink] });
  // A segment that the slot needs is gone, as after a disk fault.
  await database.query('select pg_switch_wal()');
  await database.query('insert into t values (1)');
  const [row] = await database.query('select pg_walfile_name(pg_current_wal_lsn()) as file');
  await database.query('select pg_switch_wal()');
  await database.query('insert into t values (2)');
  await database.query('select pg_switch_wal(); checkpoint');
  rmSync(join(server.dataDir, 'pg_wal', row!.file as string));
  const running = start(config, { sinks: [sink] });
  await expect(running.finished).rejects.toMatchObject({
    code: 'SOURCE_QUERY',
    message: expect.stringMatching(/cannot go on with the stream behind .*, 8 times in a row/),
    help: expect.stringContaining('waltide run --recopy'),
  });
}, 300_000);
