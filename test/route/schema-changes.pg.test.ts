import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { installDdlCapture } from '../../src/postgres/ddl-capture.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { SchemaWorkload } from '../support/schema-workload.ts';

/** More for those who look for trouble: WALTIDE_SCHEMA_ROUNDS=100 WALTIDE_SCHEMA_SEED=7 npx vitest run … */
const ROUNDS = Number(process.env.WALTIDE_SCHEMA_ROUNDS ?? 3);
const SEED = Number(process.env.WALTIDE_SCHEMA_SEED ?? Date.now() % 100_000);
const seeds = Array.from({ length: ROUNDS }, (_, i) => SEED + i);

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

async function install(): Promise<void> {
  const client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
  await installDdlCapture(client).finally(() => client.end());
}

const plainName = (name: string): string => name.replaceAll('"', '');

describe.each([
  ['with the capture trigger', true],
  ['without it', false],
])('after a random series of schema changes and rows, %s', (_name, trigger) => {
  it.each(seeds)('the target equals the source (seed %i)', async (seed) => {
    const workload = await SchemaWorkload.start(database.url, seed, trigger);
    const { config, path } = testPipeline(database);
    try {
      await catchUp(config);
      if (trigger) await install();
      for (let round = 0; round < 4; round++) {
        await workload.run(12);
        if (!trigger) await workload.touch();
        const stopped = await catchUp(config);
        expect(stopped, workload.statements.join(';\n')).toEqual([]);
        const tables = (await workload.tables()).map(({ name }) => plainName(name));
        const found = await withDuckdb(path, (query) => differences(database.url, query, tables)).catch(String);
        expect(found, `seed ${seed}\n${workload.statements.join(';\n')}`).toEqual([]);
      }
    } finally {
      await workload.end();
    }
  });
});

describe('while the pipeline runs', () => {
  it.each(seeds.slice(0, Math.max(1, ROUNDS - 1)))(
    'the target follows schema changes under snapshots (seed %i)',
    async (seed) => {
      const workload = await SchemaWorkload.start(database.url, seed, true);
      const { config, path } = testPipeline(database, { snapshot: { tablesIntervalMs: 300 } });
      await catchUp(config);
      await install();
      const running = start(config);
      try {
        for (let round = 0; round < 3; round++) {
          await workload.run(20);
          await new Promise((resolve) => setTimeout(resolve, 500));
        }
        await running.stop();
        expect(await catchUp(config), workload.statements.join(';\n')).toEqual([]);
        const tables = (await workload.tables()).map(({ name }) => plainName(name));
        const found = await withDuckdb(path, (query) => differences(database.url, query, tables)).catch(String);
        expect(found, `seed ${seed}\n${workload.statements.join(';\n')}`).toEqual([]);
      } finally {
        await running.stop().catch(() => {});
        await workload.end();
      }
    },
  );
});
