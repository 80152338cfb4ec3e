import { describe, expect, it } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { installDdlCapture } from '../../src/postgres/ddl-capture.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, query, type TestDatabase } from '../support/postgres.ts';
import { OLDER_VERSIONS } from '../support/postgres-package.ts';
import { SchemaWorkload } from '../support/schema-workload.ts';
import { ensureSharedPostgres } from '../support/shared-postgres.ts';
import { askForSnapshot } from '../support/snapshots.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

/** The newest version is what every other test runs on. */
describe.each(OLDER_VERSIONS)('PostgreSQL %i → DuckDB', (version) => {
  async function withDatabase(work: (database: TestDatabase) => Promise<void>): Promise<void> {
    const database = await createDatabase(await ensureSharedPostgres(version));
    try {
      await work(database);
    } finally {
      await database.drop();
    }
  }

  it('is that version', async () => {
    const [row] = await query(await ensureSharedPostgres(version), 'show server_version_num');
    expect(Math.floor(Number(row?.server_version_num) / 10_000)).toBe(version);
  });

  it('copies what is there, then streams every kind of change', () =>
    withDatabase(async (database) => {
      const { config, path } = testPipeline(database);
      await database.query(SCHEMA);
      await runWorkload(database.url, 1, AbortSignal.timeout(300));
      for (let seed = 2; seed < 4; seed++) {
        expect(await catchUp(config)).toEqual([]);
        expect(await withDuckdb(path, (run) => differences(database.url, run, TABLES))).toEqual([]);
        await runWorkload(database.url, seed, AbortSignal.timeout(700));
      }
    }));

  it('reads tables again beside the stream, under writes, those without a key too', () =>
    withDatabase(async (database) => {
      const { config, path } = testPipeline(database, { snapshot: { chunkRows: 50, tablesIntervalMs: 300 } });
      await database.query(SCHEMA);
      await runWorkload(database.url, 1, AbortSignal.timeout(700));
      await catchUp(config);
      const running = start(config);
      await eventually('it streams', () => running.pipeline.status().source?.connected === true);
      const writing = new AbortController();
      const workload = runWorkload(database.url, 2, writing.signal);
      for (const table of ['account', 'renamed_key', 'event_log']) await askForSnapshot(database, config, table);
      await eventually('they are read', async () => {
        const [row] = await database.query(
          "select count(*)::int as n from waltide.snapshots where state = 'completed'",
        );
        return row!.n === 3;
      });
      writing.abort();
      await workload;
      await running.stop();
      expect(await catchUp(config)).toEqual([]);
      expect(await withDuckdb(path, (run) => differences(database.url, run, TABLES))).toEqual([]);
    }));

  it('follows a random series of schema changes by the capture trigger', () =>
    withDatabase(async (database) => {
      const seed = Number(process.env.WALTIDE_SCHEMA_SEED ?? Date.now() % 100_000);
      const workload = await SchemaWorkload.start(database.url, seed, true);
      const { config, path } = testPipeline(database);
      try {
        await catchUp(config);
        const client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
        await installDdlCapture(client).finally(() => client.end());
        for (let round = 0; round < 2; round++) {
          await workload.run(20);
          expect(await catchUp(config), workload.statements.join(';\n')).toEqual([]);
          const tables = (await workload.tables()).map(({ name }) => name.replaceAll('"', ''));
          const found = await withDuckdb(path, (run) => differences(database.url, run, tables)).catch(String);
          expect(found, `seed ${seed}\n${workload.statements.join(';\n')}`).toEqual([]);
        }
      } finally {
        await workload.end();
      }
    }));

  it('goes on after its session was ended, with changes under way', () =>
    withDatabase(async (database) => {
      const { config, path } = testPipeline(database);
      await database.query(SCHEMA);
      const running = start(config);
      await eventually('it streams', () => running.pipeline.status().source?.connected === true);
      const writing = new AbortController();
      const workload = runWorkload(database.url, 4, writing.signal);
      for (let i = 0; i < 3; i++) {
        await new Promise((resolve) => setTimeout(resolve, 300));
        await database.query(
          'select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active_pid is not null',
          [database.name],
        );
      }
      writing.abort();
      await workload;
      await running.stop();
      expect(await catchUp(config)).toEqual([]);
      expect(await withDuckdb(path, (run) => differences(database.url, run, TABLES))).toEqual([]);
    }));
});
