import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

describe('snapshots through Kafka', () => {
  let database: TestDatabase;
  beforeEach(async () => {
    database = await createDatabase();
  });
  afterEach(() => database.drop());

  it('replaces tables under live writes, through several partitions', async () => {
    const brokers = await ensureSharedKafka();
    const { config, path } = testPipeline(database, {
      transport: { type: 'kafka', brokers, topicPrefix: database.name, partitions: 2 },
      snapshot: { chunkRows: 60, tablesIntervalMs: 200 },
    });
    await database.query(SCHEMA);
    // With several partitions a key change must carry the whole row.
    await database.query('alter table renamed_key replica identity full; alter table account replica identity full');
    await runWorkload(database.url, 1, AbortSignal.timeout(700));
    const running = start(config);
    const writing = new AbortController();
    const workload = runWorkload(database.url, 2, writing.signal);
    await eventually('streaming', () => running.pipeline.status().source?.connected === true);
    for (const table of TABLES)
      await database.query(
        `insert into waltide.snapshots (id, slot_name, table_oid, schema_name, table_name, reason)
         select substr(md5(random()::text), 1, 12), $1, c.oid, n.nspname, c.relname, 'test'
         from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = $2::regclass`,
        [database.name, table],
      );
    await eventually('all completed', async () => {
      const rows = await database.query("select from waltide.snapshots where state = 'completed'");
      return rows.length === TABLES.length;
    });
    writing.abort();
    await workload;
    await running.stop();
    expect(await catchUp(config)).toEqual([]);
    expect(await withDuckdb(path, (query) => differences(database.url, query, TABLES))).toEqual([]);
  }, 300_000);
});
