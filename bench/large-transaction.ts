import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, statSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { ConfigInput } from '../src/config/schema.ts';
import { type OpenArena, openArena } from './arena.ts';
import { createSlot, PUBLICATION } from './contender.ts';
import { printMachine } from './report.ts';
import { cpuSeconds, TreeMeter } from './usage.ts';
import { build, common, compileCaptureOnly, setup, waltideArgs } from './waltide.ts';
import { createTable, INSERT } from './workload.ts';

/*
 * One transaction of many rows, written while Waltide runs: how long after its COMMIT everything is applied, and what it takes on
 * both sides, with streaming of transactions in progress and without.
 */

const HELP = `npx tsx bench/large-transaction.ts [options]

  --rows N         rows of the transaction (default 1000000, about 280 MB of WAL; 18000000 are 5 GB)
  --only A,B       of null, duckdb
  --json FILE      everything that was measured
  --no-build       measure dist as it is
`;

const SETTINGS = {
  fsync: 'off',
  autovacuum: 'off',
  shared_buffers: '256MB',
  max_wal_size: '20GB',
  checkpoint_timeout: '1h',
};
const ROWS_PER_STATEMENT = 20_000;
const SAMPLE_INTERVAL_MS = 100;

interface Figures {
  readonly target: string;
  readonly streaming: string;
  readonly writeSeconds: number;
  /** From COMMIT to the acknowledgement, which is sent once a second. */
  readonly appliedSeconds: number;
  readonly cpuSeconds: number;
  readonly walsenderCpuSeconds: number;
  readonly peakRssMb: number;
  /** In pg_replslot of the source, and in our stateDir. */
  readonly serverSpillMb: number;
  readonly ownSpillMb: number;
  readonly walMb: number;
}

const { values: options } = parseArgs({
  options: {
    rows: { type: 'string', default: '1000000' },
    only: { type: 'string', default: 'null,duckdb' },
    json: { type: 'string' },
    'no-build': { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

async function main(): Promise<void> {
  if (!options['no-build']) await build();
  const arena = await openArena({ kafka: false, settings: SETTINGS });
  const found: Figures[] = [];
  try {
    printMachine(arena.machine);
    for (const target of options.only.split(','))
      for (const streaming of ['off', 'on'] as const) {
        found.push(await measure(arena, target, streaming));
        console.table(found.slice(-1));
      }
    console.table(found);
    if (options.json) await writeFile(options.json, `${JSON.stringify({ machine: arena.machine, found }, null, 2)}\n`);
  } finally {
    await arena.close();
  }
}

async function measure(arena: OpenArena, target: string, streaming: 'off' | 'on'): Promise<Figures> {
  const { client } = arena;
  await client.query(`drop publication if exists ${PUBLICATION}; drop table if exists bench`);
  await createTable(client);
  const name = `${target}_${streaming}`;
  const slot = `bench_${name}`;
  const args = await (target === 'duckdb' ? prepareDuckdb : prepareNull)(arena, name, streaming);
  const child = spawn(process.execPath, args, { cwd: arena.dir, stdio: ['ignore', 'ignore', 'inherit'] });
  arena.guard.watch(child.pid ?? null);
  try {
    let sender = 0;
    while (sender === 0) {
      if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}`);
      await sleep(SAMPLE_INTERVAL_MS);
      sender = Number(await one(arena, 'select active_pid from pg_replication_slots where slot_name = $1', [slot]));
    }
    const watch = new Watch(arena, slot, child.pid!, sender);
    const { writeSeconds, end, walBytes } = await write(arena, watch);
    const committedAt = Date.now();
    const confirmed = 'select confirmed_flush_lsn >= $2 from pg_replication_slots where slot_name = $1';
    while (!(await one(arena, confirmed, [slot, end]))) {
      if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}`);
      await watch.sample();
      await sleep(SAMPLE_INTERVAL_MS);
    }
    const appliedSeconds = (Date.now() - committedAt) / 1000;
    return { target, streaming, writeSeconds, appliedSeconds, ...watch.figures(), walMb: walBytes / 1e6 };
  } finally {
    const exited = child.exitCode === null ? once(child, 'exit') : null;
    child.kill('SIGTERM');
    await exited;
    arena.guard.watch(null);
    await client.query('select pg_drop_replication_slot($1)', [slot]);
  }
}

async function prepareNull(arena: OpenArena, name: string, streaming: string): Promise<string[]> {
  await arena.client.query(`create publication ${PUBLICATION} for table bench`);
  await createSlot(arena.client, `bench_${name}`);
  const never = 'FFFFFFFF/FFFFFFFF';
  return [await compileCaptureOnly(), arena.url, `bench_${name}`, PUBLICATION, never, JSON.stringify({ streaming })];
}

async function prepareDuckdb(arena: OpenArena, name: string, streaming: 'off' | 'on'): Promise<string[]> {
  const base = common(arena, name);
  const config: ConfigInput = {
    ...base,
    source: { ...base.source, protocol: { streaming } },
    sinks: [{ name: 'bench', type: 'duckdb', path: join(arena.dir, `${name}.duckdb`) }],
    log: { level: 'warn', format: 'json' },
  };
  await setup(arena, name, config);
  return waltideArgs('run', join(arena.dir, `waltide-${name}.json`));
}

async function write(arena: OpenArena, watch: Watch): Promise<{ writeSeconds: number; end: string; walBytes: number }> {
  const rows = Number(options.rows);
  const start = await one(arena, 'select pg_current_wal_insert_lsn()::text');
  const startedAt = Date.now();
  await arena.client.query('begin');
  for (let from = 1; from <= rows; from += ROWS_PER_STATEMENT) {
    await arena.client.query(INSERT, [from, Math.min(rows, from + ROWS_PER_STATEMENT - 1)]);
    await watch.sample();
  }
  await arena.client.query('commit');
  const writeSeconds = (Date.now() - startedAt) / 1000;
  const end = String(await one(arena, 'select pg_current_wal_insert_lsn()::text'));
  return { writeSeconds, end, walBytes: Number(await one(arena, 'select pg_wal_lsn_diff($1, $2)', [end, start])) };
}

/** Keeps the most of everything that was seen. */
class Watch {
  readonly #arena: OpenArena;
  readonly #slot: string;
  readonly #meter: TreeMeter;
  readonly #sender: number;
  readonly #senderBefore: number;
  #serverSpill = 0;
  #ownSpill = 0;

  constructor(arena: OpenArena, slot: string, pid: number, sender: number) {
    this.#arena = arena;
    this.#slot = slot;
    this.#meter = new TreeMeter(pid);
    this.#sender = sender;
    this.#senderBefore = cpuSeconds(sender);
  }

  async sample(): Promise<void> {
    this.#meter.sample();
    const spilled = await one(this.#arena, 'select coalesce(sum(size), 0) from pg_ls_replslotdir($1)', [this.#slot]);
    this.#serverSpill = Math.max(this.#serverSpill, Number(spilled));
    const states = [`state-${this.#slot}`, `state-${this.#slot.replace('bench_', '')}`];
    for (const state of states)
      this.#ownSpill = Math.max(this.#ownSpill, sizeOf(join(this.#arena.dir, state, 'spill')));
  }

  figures(): Pick<Figures, 'cpuSeconds' | 'walsenderCpuSeconds' | 'peakRssMb' | 'serverSpillMb' | 'ownSpillMb'> {
    return {
      cpuSeconds: this.#meter.cpuSeconds,
      walsenderCpuSeconds: cpuSeconds(this.#sender) - this.#senderBefore,
      peakRssMb: this.#meter.peakRssBytes / 1e6,
      serverSpillMb: this.#serverSpill / 1e6,
      ownSpillMb: this.#ownSpill / 1e6,
    };
  }
}

function sizeOf(folder: string): number {
  try {
    return readdirSync(folder, { recursive: true, encoding: 'utf8' })
      .map((file) => statSync(join(folder, file)))
      .reduce((sum, file) => sum + (file.isFile() ? file.size : 0), 0);
  } catch {
    return 0; // Not there yet, or gone while we looked.
  }
}

async function one(arena: OpenArena, sql: string, values: unknown[] = []): Promise<unknown> {
  const { rows } = await arena.client.query<unknown[]>({ text: sql, values, rowMode: 'array' });
  return rows[0]?.[0];
}

if (options.help) console.log(HELP);
else await main();
