import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { Agent } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import pg from 'pg';
import { snapshot } from '../src/config/schema/snapshot.ts';
import type { ConfigInput } from '../src/config/schema.ts';
import { type OpenArena, openArena } from './arena.ts';
import { controlOf, end, launch, newestId } from './probes.ts';
import { printMachine, printTable } from './report.ts';
import { peakRssBytes } from './usage.ts';
import { verifyDuckdb } from './verify.ts';
import { build, common, waltideArgs, writeConfig } from './waltide.ts';
import { createTable, digest } from './workload.ts';

const HELP = `npx tsx bench/snapshot.ts -- [options]

  --rows N             rows of the table (default 5,000,000)
  --only first         nothing but psql's COPY and the first copy
  --writes-per-second  beside the incremental snapshot (default 2,000)
  --rows-per-second-max  of the incremental snapshot (default: none)
  --no-build           measure dist as it is
`;

const RSS_TARGET_BYTES = 600 * 1024 * 1024;
/** Every 4 ms, as in the latency benchmark, the queries took most of a core of the two that everything shares. */
const POLL_MS = 25;
const CHUNK_ROWS = snapshot.parse({}).chunkRows;
/** Writes come in transactions, as many in each as make this many of them a second. */
const TRANSACTIONS_PER_SECOND = 100;
/** How long latency is measured before the snapshot begins, to compare with. */
const BASELINE_MS = 15_000;

const { values: options } = parseArgs({
  options: {
    rows: { type: 'string', default: '5000000' },
    only: { type: 'string' },
    'writes-per-second': { type: 'string', default: '2000' },
    'rows-per-second-max': { type: 'string' },
    'no-build': { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
  allowPositionals: true,
});

if (options.help) console.log(HELP);
else await main();

async function main(): Promise<void> {
  if (!options['no-build']) await build();
  const rows = Number(options.rows);
  const arena = await openArena({ kafka: false, settings: { fsync: 'off', max_wal_size: '8GB' } });
  try {
    printMachine(arena.machine);
    await fill(arena, rows);
    const copy = await psqlCopy(arena, rows);
    const initial = await first(arena, rows);
    const later =
      options.only === 'first' ? null : { beside: await incremental(arena, rows), resumed: await resume(arena, rows) };
    console.log('');
    const table = [['', 'rows/s', 'target', '']];
    const judge = (label: string, value: string, target: string, good: boolean | null): void => {
      table.push([label, value, target, good === null ? '' : good ? 'PASS' : 'FAIL']);
      if (good === false) process.exitCode = 1;
    };
    const k = (rate: number): string => `${Math.round(rate / 1000)} k`;
    const mb = (bytes: number): string => `${Math.round(bytes / 1024 / 1024)} MB`;
    judge('psql COPY … TO STDOUT > /dev/null', k(copy), '', null);
    judge(
      'first copy → DuckDB',
      `${k(initial.rate)} (${(initial.rate / copy).toFixed(2)}×)`,
      '0.6×',
      initial.rate >= 0.6 * copy,
    );
    judge('its peak RSS', mb(initial.rss), '600 MB', initial.rss < RSS_TARGET_BYTES);
    if (!later) return printTable(table);
    const { beside, resumed } = later;
    judge(
      'incremental under writes',
      `${k(beside.rate)} (${(beside.rate / initial.rate).toFixed(2)}×)`,
      '0.4×',
      beside.rate >= 0.4 * initial.rate,
    );
    judge(
      'streaming p99 beside it, ms',
      `${beside.p99.toFixed(0)} (alone ${beside.alone.toFixed(0)})`,
      '< 2×',
      beside.p99 < 2 * beside.alone,
    );
    judge('rows read again after kill -9', String(resumed.again), `≤ ${resumed.chunk}`, resumed.again <= resumed.chunk);
    printTable(table);
  } finally {
    await arena.close();
  }
}

function configOf(arena: OpenArena): ConfigInput {
  const config = common(arena, 'snapshot');
  return {
    ...config,
    source: { ...config.source, tables: ['public.bench', 'public.traffic'] },
    sinks: [{ name: 'bench', type: 'duckdb', path: join(arena.dir, 'snapshot.duckdb') }],
  };
}

async function fill(arena: OpenArena, rows: number): Promise<void> {
  await createTable(arena.client);
  await arena.client.query('create table traffic (id int primary key, note text)');
  await arena.client.query(
    `insert into bench select id, 'customer ' || id, (id % 1000000) / 100.0,
       jsonb_build_object('sku', 'A-' || id % 977, 'qty', id % 13, 'note', md5(id::text)),
       timestamptz '2026-01-01 00:00:00+00' + id * interval '1.000001 s' from generate_series(1, $1::int) as id`,
    [rows],
  );
  await arena.client.query('vacuum analyze bench');
  await arena.client.query('checkpoint');
}

/** Rows a second, the best of three. */
async function psqlCopy(arena: OpenArena, rows: number): Promise<number> {
  let best = 0;
  for (let i = 0; i < 3; i++) {
    const start = performance.now();
    const child = spawn('psql', [arena.url, '-qc', 'COPY bench TO STDOUT'], { stdio: ['ignore', 'ignore', 'inherit'] });
    const [code] = (await once(child, 'exit')) as [number];
    if (code !== 0) throw new Error('psql failed');
    best = Math.max(best, (rows * 1000) / (performance.now() - start));
  }
  return best;
}

async function first(arena: OpenArena, rows: number): Promise<{ rate: number; rss: number }> {
  const file = await writeConfig(arena.dir, 'snapshot', configOf(arena));
  const child = launch(arena, 'setup', process.execPath, waltideArgs('setup', file));
  let rss = 0;
  const timer = setInterval(() => {
    rss = Math.max(rss, peakRssBytes(child.pid!));
  }, 50);
  await once(child, 'exit');
  clearInterval(timer);
  const log = readFileSync(join(arena.dir, 'setup.log'), 'utf8');
  const at = (message: string): number => Date.parse(line(log, message).time);
  const rate = (rows * 1000) / (at('every existing row is copied') - at('copying existing rows'));
  await verifyDuckdb(join(arena.dir, 'snapshot.duckdb'), { digest: await digest(arena.client) });
  return { rate, rss };
}

function line(log: string, message: string): { time: string } {
  const found = log.split('\n').find((text) => text.includes(message));
  if (!found) throw new Error(`The log does not say "${message}":\n${log.slice(-2000)}`);
  return JSON.parse(found) as { time: string };
}

async function incremental(arena: OpenArena, rows: number): Promise<{ rate: number; alone: number; p99: number }> {
  const file = join(arena.dir, 'waltide-snapshot.json');
  const child = launch(arena, 'run', process.execPath, waltideArgs('run', file));
  const control = await controlOf(configOf(arena).stateDir!, child, arena, 'run');
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const written: { id: number; at: number }[] = [];
  const latencies: { at: number; ms: number }[] = [];
  let stopped = false;
  const writing = write(arena, written, () => stopped);
  const reading = (async () => {
    for (let last = 0, from = 0; !stopped; await sleep(POLL_MS)) {
      last = Math.max(last, await newestId(control, agent, 'traffic').catch(() => last));
      const now = performance.now();
      for (; from < written.length && written[from]!.id <= last; from++)
        latencies.push({ at: written[from]!.at, ms: now - written[from]!.at });
    }
  })();
  await sleep(3000);
  const quiet = performance.now();
  await sleep(BASELINE_MS);
  const begun = performance.now();
  const start = Date.now();
  const most = options['rows-per-second-max'];
  const limit = most === undefined ? [] : ['--rows-per-second-max', most];
  await waltide(arena, ['snapshot', 'start', 'bench', '--wait', ...limit, '--config', file]);
  const ended = performance.now();
  const rate = (rows * 1000) / (Date.now() - start);
  stopped = true;
  await Promise.all([writing, reading]);
  agent.destroy();
  await end(child);
  const p99 = (from: number, to: number): number => {
    const list = latencies
      .filter(({ at }) => at >= from && at < to)
      .map(({ ms }) => ms)
      .sort((a, b) => a - b);
    return list[Math.ceil(list.length * 0.99) - 1] ?? Number.NaN;
  };
  return { rate, alone: p99(quiet, begun), p99: p99(begun, ended) };
}

/** Half of the writes go to the table that is read, half to one whose newest row is looked for. */
async function write(arena: OpenArena, written: { id: number; at: number }[], stopped: () => boolean): Promise<void> {
  const client = new pg.Client({ connectionString: arena.url });
  await client.connect();
  const each = Math.round(Number(options['writes-per-second']) / TRANSACTIONS_PER_SECOND / 2);
  const rows = Number(options.rows);
  const start = performance.now();
  try {
    for (let i = 0; !stopped(); i++) {
      const due = start + (i * 1000) / TRANSACTIONS_PER_SECOND - performance.now();
      if (due > 0) await sleep(due);
      const from = i * each + 1;
      await client.query(
        `with a as (insert into traffic select g, 'note ' || g from generate_series(${from}, ${from + each - 1}) g returning 1)
         update bench set amount = amount + 0.01 where id in (select 1 + ((${i} * 7919 + g * 104729) % ${rows}) from generate_series(1, ${each}) g)`,
      );
      written.push({ id: from + each - 1, at: performance.now() });
    }
  } finally {
    await client.end();
  }
}

/** Killed in the middle: what the second process reads, less what the first had not saved. */
async function resume(arena: OpenArena, rows: number): Promise<{ again: number; chunk: number }> {
  const file = join(arena.dir, 'waltide-snapshot.json');
  await waltide(arena, ['snapshot', 'start', 'bench', '--config', file]);
  const saved = async (): Promise<number> => {
    const { rows: found } = await arena.client.query<{ done: number }>(
      `select rows_done::float8 as done from waltide.snapshots order by created_at desc limit 1`,
    );
    return found[0]!.done;
  };
  const killed = launch(arena, 'killed', process.execPath, waltideArgs('run', file));
  while ((await saved()) < rows / 3) await sleep(20);
  killed.kill('SIGKILL');
  await once(killed, 'exit');
  const before = await saved();
  const resumed: ChildProcess = launch(
    arena,
    'resumed',
    process.execPath,
    waltideArgs('run', file, '--until-caught-up', '--json'),
  );
  await once(resumed, 'exit');
  const text = readFileSync(join(arena.dir, 'resumed.log'), 'utf8');
  const report = JSON.parse(text.slice(text.indexOf('\n{\n') + 1)) as { status: { source: { events: number } } };
  // What the WAL brought besides is one end of a snapshot and the last writes.
  await verifyDuckdb(join(arena.dir, 'snapshot.duckdb'), { digest: await digest(arena.client) });
  return { again: Math.max(0, report.status.source.events - (rows - before) - 1), chunk: CHUNK_ROWS };
}

async function waltide(arena: OpenArena, args: string[]): Promise<void> {
  const [main] = waltideArgs('', '');
  await promisify(execFile)(process.execPath, [main!, ...args], { cwd: arena.dir });
}
