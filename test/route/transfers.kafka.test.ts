import { join } from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { findProcesses, queryProcess } from '../../src/api/control-client.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';
import { startWaltide, type WaltideProcess, waltide, writeConfig } from '../support/waltide-process.ts';

/*
 * Goal: with `consistency: transaction` nobody ever sees half of a source transaction, whatever is killed. Method: money
 * moves between two tables (two topics of three partitions) in small and large transactions while a reader asks the
 * running process for the sum all the time, and capture and apply are killed in turn. The same with `table`, which
 * shows that the reader would see it.
 */
const ACCOUNTS = 200;
const TOTAL = 2 * ACCOUNTS * 1000;
const TABLES = ['public.checking', 'public.saving'];
const SUM = 'select (select sum(amount) from checking) + (select sum(amount) from saving) as total';

let database: TestDatabase;
let brokers: string[];

beforeEach(async () => {
  brokers = await ensureSharedKafka();
  database = await createDatabase();
  for (const table of TABLES)
    await database.query(
      `create table ${table} (id int primary key, amount bigint not null);
       insert into ${table} select g, 1000 from generate_series(1, ${ACCOUNTS}) g`,
    );
});
afterEach(() => database.drop());

it.each([
  ['transaction', 6],
  ['table', 0],
] as const)('consistency: %s', { timeout: 400_000 }, async (consistency, rounds) => {
  const seed = Number(process.env.WALTIDE_SEED ?? Date.now() % 100_000);
  console.info(`seed ${seed}`);
  const random = new Random(seed);
  const { folder, file } = writeConfig({
    source: {
      url: database.url,
      slot: database.name,
      publication: database.name,
      tables: ['public.*'],
      heartbeatIntervalMs: 500,
    },
    transport: {
      type: 'kafka',
      brokers,
      topicPrefix: database.name,
      partitions: 3,
      transactions: { enabled: true },
    },
    // Small batches: many moments at which a reader could see half of something.
    sinks: [{ name: 'bank', type: 'duckdb', path: 'bank.duckdb', consistency, batch: { rowsMax: 50, lingerMs: 1 } }],
  });
  const run = (role: string): WaltideProcess => startWaltide(['run', '--role', role, '--config', file]);
  for (const role of ['capture', 'apply'])
    expect((await waltide(['run', '--role', role, '--until-caught-up', '--config', file])).code).toBe(0);
  const stop = new AbortController();
  const moving = moveMoney(database.url, random, stop.signal);
  const totals = new Map<number, number>();
  const processes = { capture: run('capture'), apply: run('apply') };
  const readUntil = async (enough: () => boolean): Promise<void> => {
    const deadline = Date.now() + 120_000;
    while (!enough()) {
      if (Date.now() > deadline) throw new Error(`seed ${seed}: the reader did not see enough: ${readings()} readings`);
      const total = await readTotal(join(folder, '.waltide'), database.name);
      if (total !== null) totals.set(total, (totals.get(total) ?? 0) + 1);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  };
  const readings = (): number => [...totals.values()].reduce((sum, count) => sum + count, 0);
  for (let round = 0; round < rounds; round++) {
    const goal = readings() + 10 + random.int(30);
    await readUntil(() => readings() >= goal);
    const role = random.pick(['capture', 'apply'] as const);
    processes[role].child.kill('SIGKILL');
    const { code, stderr } = await processes[role].finished;
    expect(code, `seed ${seed}: ${role} ended by itself: ${stderr}`).toBeNull();
    processes[role] = run(role);
  }
  await readUntil(consistency === 'table' ? () => totals.size > 1 : () => readings() > 20 * rounds);
  stop.abort();
  expect(await moving).toBeGreaterThan(50);
  for (const role of ['capture', 'apply'] as const) {
    processes[role].child.kill('SIGTERM');
    await processes[role].finished;
    const { code, stderr } = await waltide(['run', '--role', role, '--until-caught-up', '--config', file]);
    expect(code, stderr).toBe(0);
  }
  expect(await withDuckdb(join(folder, 'bank.duckdb'), (query) => differences(database.url, query, TABLES))).toEqual(
    [],
  );
  console.info(`${consistency}: totals seen ${JSON.stringify([...totals].slice(0, 5))}`);
  if (consistency === 'transaction') expect([...totals.keys()], `seed ${seed}`).toEqual([TOTAL]);
  else expect(totals.size, `seed ${seed}: the reader must be able to see it`).toBeGreaterThan(1);
});

/** What the running apply process answers; null while there is none. */
async function readTotal(stateDir: string, slot: string): Promise<number | null> {
  try {
    const { running } = await findProcesses(stateDir, slot);
    const holder = running.find(({ status }) => status.role === 'apply');
    if (!holder) return null;
    const { rows } = await queryProcess(holder.file, SUM, { sink: 'bank', rowsMax: 1, timeoutMs: 5000 });
    return Number(rows[0]![0]);
  } catch {
    return null;
  }
}

/** Moves money between the tables, now a little, now between all accounts at once. Resolves with the transactions. */
async function moveMoney(url: string, random: Random, signal: AbortSignal): Promise<number> {
  const client = new pg.Client(url);
  await client.connect();
  let count = 0;
  while (!signal.aborted) {
    const amount = 1 + random.int(50);
    const [from, to] = random.int(2) === 0 ? TABLES : [...TABLES].reverse();
    const where = random.int(4) === 0 ? 'true' : `id = ${1 + random.int(ACCOUNTS)}`;
    await client.query('begin');
    await client.query(`update ${from} set amount = amount - ${amount} where ${where}`);
    await client.query(`update ${to} set amount = amount + ${amount} where ${where}`);
    await client.query(random.int(10) === 0 ? 'rollback' : 'commit');
    count++;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await client.end();
  return count;
}
