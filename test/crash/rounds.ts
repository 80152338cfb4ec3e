import { join } from 'node:path';
import { expect } from 'vitest';
import type { ConfigInput } from '../../src/config/schema.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import type { TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';
import { startWaltide, waltide, writeConfig } from '../support/waltide-process.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

export interface CrashOptions {
  readonly database: TestDatabase;
  readonly transport: NonNullable<ConfigInput['transport']>;
  readonly rounds: number;
  readonly seed: number;
}

/**
 * Goal: kill -9 at any moment loses and repeats nothing. Method: a random workload runs all the time while the process
 * is started and killed at random moments; every few rounds it may catch up, and then every row of every table is
 * compared. The seed is printed, so that a failure can be had again (as far as timing allows).
 */
export async function crashRounds({ database, transport, rounds, seed }: CrashOptions): Promise<void> {
  console.info(`crash test: ${rounds} rounds, seed ${seed}`);
  const random = new Random(seed);
  await database.query(SCHEMA);
  const { folder, file } = writeConfig({
    source: {
      url: database.url,
      slot: database.name,
      publication: database.name,
      tables: ['public.*', 'sales.*'],
      heartbeatIntervalMs: 500,
    },
    transport,
    // Small batches, so that there are many moments to be killed at.
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'target.duckdb', batch: { rowsMax: 500, lingerMs: 5 } }],
  });
  const path = join(folder, 'target.duckdb');
  for (let i = 0; i < 2; i++) await writeFor(database.url, seed + i, 500);
  for (let round = 1; round <= rounds; round++) {
    const writing = new AbortController();
    const workload = runWorkload(database.url, seed * 1000 + round, writing.signal);
    workload.catch(() => {});
    const process = startWaltide(['run', '--config', file]);
    await Promise.race([new Promise((resolve) => setTimeout(resolve, 300 + random.int(2200))), process.finished]);
    process.child.kill('SIGKILL');
    const { code, stderr } = await process.finished;
    expect(code, `round ${round}, seed ${seed}: ended by itself: ${stderr}`).toBeNull();
    writing.abort();
    await workload;
    if (round % 5 !== 0 && round !== rounds) continue;
    const caughtUp = await waltide(['run', '--until-caught-up', '--config', file]);
    expect(caughtUp.code, `round ${round}, seed ${seed}: ${caughtUp.stderr}`).toBe(0);
    const found = await withDuckdb(path, (query) => differences(database.url, query, TABLES));
    expect(found, `round ${round}, seed ${seed}`).toEqual([]);
  }
}

async function writeFor(url: string, seed: number, ms: number): Promise<void> {
  await runWorkload(url, seed, AbortSignal.timeout(ms));
}
