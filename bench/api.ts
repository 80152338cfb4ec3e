import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { createApiKey } from '../src/api/auth/api-keys.ts';
import { API_BASE } from '../src/api/route.ts';
import { type OpenArena, openArena } from './arena.ts';
import { end, startWaltide } from './probes.ts';
import { ascending, median, percentile, printMachine, printTable } from './report.ts';
import { cpuSeconds } from './usage.ts';
import { build, common } from './waltide.ts';
import { createTable, INSERT } from './workload.ts';

const HELP = `npx tsx bench/api.ts [options]

GET sync/status at a steady rate, by the public address and with a key, while changes flow into DuckDB. By turns with and
without the requests: changes at a steady rate, then a backlog as fast as it goes.

  --requests N  per second (default 200)
  --events N    per second (default 50000)
  --seconds N   of each turn at a steady rate (default 20)
  --backlog N   events of each backlog (default 500000)
  --rounds N    turns of each kind (default 3)
  --json FILE   every figure that was measured
  --no-build    measure dist as it is
`;

const TARGET_P99_MS = 50;
const TARGET_RATIO = 0.97;
const STATEMENTS_PER_SECOND = 25;
const START_TIMEOUT_MS = 60_000;
const CATCH_UP_TIMEOUT_S = 290;
const WARM_UP_S = 3;

const { values: options } = parseArgs({
  options: {
    requests: { type: 'string', default: '200' },
    events: { type: 'string', default: '50000' },
    seconds: { type: 'string', default: '20' },
    backlog: { type: 'string', default: '500000' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'string' },
    'no-build': { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

/** One turn. */
interface Turn {
  readonly kind: 'steady' | 'backlog';
  readonly asked: boolean;
  readonly eventsPerSecond: number;
  /** Of Waltide's process. */
  readonly cpuMicrosPerEvent: number;
  /** From when each request was due to its answer, in ms. */
  readonly latencies: readonly number[];
}

interface Bench {
  readonly arena: OpenArena;
  readonly writer: pg.Client;
  readonly pid: number;
  readonly url: string;
  readonly key: string;
  /** Of this turn: a server that stood still gives up connections that it had before. */
  agent: Agent;
  lastId: number;
}

if (options.help) console.log(HELP);
else await main();

async function main(): Promise<void> {
  if (!options['no-build']) await build();
  const arena = await openArena({ kafka: false, settings: {} });
  try {
    printMachine(arena.machine);
    await createTable(arena.client);
    const turns = await measure(arena);
    const passed = print(turns);
    if (options.json) await writeFile(options.json, `${JSON.stringify({ machine: arena.machine, turns }, null, 2)}\n`);
    if (!passed) process.exitCode = 1;
  } finally {
    await arena.close();
  }
}

async function measure(arena: OpenArena): Promise<Turn[]> {
  const name = 'api';
  const sink = { name: 'bench', type: 'duckdb' as const, path: join(arena.dir, 'api.duckdb') };
  const config = {
    ...common(arena, name),
    sinks: [sink],
    api: { enabled: true, port: 0, rateLimit: { requestsMax: 1_000_000 } },
  };
  const child = await startWaltide(arena, name, config, []);
  const writer = new pg.Client({ connectionString: arena.url });
  await writer.connect();
  try {
    const { text: key } = await createApiKey(arena.client, {
      ...{ name: 'bench', role: 'viewer', createdBy: 'bench', expiresAt: null },
    });
    const url = await addressOf(arena, child, name);
    const bench: Bench = { arena, writer, pid: child.pid!, url, key, agent: new Agent(), lastId: 0 };
    await steady(bench, true, WARM_UP_S);
    const turns: Turn[] = [];
    for (let round = 0; round < Number(options.rounds); round++) {
      // The order changes, so that neither always finds the larger table.
      const order = round % 2 === 0 ? [false, true] : [true, false];
      for (const asked of order) turns.push(await steady(bench, asked, Number(options.seconds)));
      for (const asked of order) turns.push(await backlog(bench, asked));
      console.log(`round ${round + 1} of ${options.rounds} is done`);
    }
    return turns;
  } finally {
    await writer.end();
    await end(child);
  }
}

async function addressOf(arena: OpenArena, child: ChildProcess, name: string): Promise<string> {
  const deadline = Date.now() + START_TIMEOUT_MS;
  for (;;) {
    const log = readFileSync(join(arena.dir, `${name}.log`), 'utf8');
    const address = /"apiAddress":"([^"]+)"/.exec(log)?.[1];
    if (address && log.includes('"streaming"')) return address;
    if (child.exitCode !== null || Date.now() > deadline)
      throw new Error(`Waltide serves no API:\n${log.slice(-2000)}`);
    await sleep(50);
  }
}

/** Changes at the rate that is asked for, whatever becomes of them; ends when the sink has them. */
async function steady(bench: Bench, asked: boolean, seconds: number): Promise<Turn> {
  const rows = Math.round(Number(options.events) / STATEMENTS_PER_SECOND);
  const statements = Math.round(seconds * STATEMENTS_PER_SECOND);
  return turn(bench, 'steady', asked, rows * statements, async () => {
    const startedAt = performance.now();
    for (let i = 0; i < statements; i++) {
      const dueAt = startedAt + (i * 1000) / STATEMENTS_PER_SECOND;
      if (performance.now() < dueAt) await sleep(dueAt - performance.now());
      await write(bench, rows);
    }
  });
}

/** Changes that wait for a process that stands still, and then for nothing. */
async function backlog(bench: Bench, asked: boolean): Promise<Turn> {
  const events = Number(options.backlog);
  process.kill(bench.pid, 'SIGSTOP');
  try {
    for (let written = 0; written < events; written += 10_000) await write(bench, Math.min(10_000, events - written));
  } finally {
    process.kill(bench.pid, 'SIGCONT');
  }
  return turn(bench, 'backlog', asked, events, async () => {});
}

async function turn(
  bench: Bench,
  kind: Turn['kind'],
  asked: boolean,
  events: number,
  work: () => Promise<void>,
): Promise<Turn> {
  bench.agent = new Agent({ keepAlive: true });
  const endAsking = asked ? startAsking(bench, Number(options.requests)) : null;
  const startedAt = performance.now();
  const cpuBefore = cpuSeconds(bench.pid);
  await work();
  await applied(bench);
  const seconds = (performance.now() - startedAt) / 1000;
  const cpu = cpuSeconds(bench.pid) - cpuBefore;
  const latencies = (await endAsking?.()) ?? [];
  bench.agent.destroy();
  return { kind, asked, eventsPerSecond: events / seconds, cpuMicrosPerEvent: (cpu * 1e6) / events, latencies };
}

async function write(bench: Bench, rows: number): Promise<void> {
  await bench.writer.query({ name: 'insert', text: INSERT, values: [bench.lastId + 1, bench.lastId + rows] });
  bench.lastId += rows;
}

/** One request that is answered when the sink has everything, in place of many that ask whether it has. */
async function applied(bench: Bench): Promise<void> {
  const { rows } = await bench.writer.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn');
  const query = new URLSearchParams({ lsn: rows[0]!.lsn, sink: 'bench', timeout: String(CATCH_UP_TIMEOUT_S) });
  await get(bench, `/sync/wait?${query}`);
}

function get({ url, key, agent }: Bench, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${key}` };
    const outgoing = request(url + API_BASE + path, { agent, headers }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => (text += part));
      response.on('error', reject);
      response.on('end', () => (response.statusCode === 200 ? resolve() : reject(new Error(text))));
    });
    outgoing.on('error', reject);
    outgoing.end();
  });
}

/**
 * Requests at a true rate: each is sent when it is due, however many have not been answered, and counted from then. So a
 * server that stands still for a second has two hundred late answers, not one. The result ends them and resolves with all
 * latencies in ms; it rejects where one was not answered well.
 */
function startAsking(bench: Bench, perSecond: number): () => Promise<number[]> {
  const startedAt = performance.now();
  const latencies: number[] = [];
  const answers: Promise<void>[] = [];
  const send = (): void => {
    for (;;) {
      const dueAt = startedAt + (answers.length * 1000) / perSecond;
      if (dueAt > performance.now()) return;
      const answer = get(bench, '/sync/status').then(() => void latencies.push(performance.now() - dueAt));
      answer.catch(() => {});
      answers.push(answer);
    }
  };
  const timer = setInterval(send, 1);
  return async () => {
    send();
    clearInterval(timer);
    await Promise.all(answers);
    return latencies;
  };
}

/** True where both targets are met. */
function print(turns: readonly Turn[]): boolean {
  const of = (kind: Turn['kind'], asked: boolean): Turn[] =>
    turns.filter((one) => one.kind === kind && one.asked === asked);
  const rate = (kind: Turn['kind'], asked: boolean): number =>
    median(of(kind, asked).map(({ eventsPerSecond }) => eventsPerSecond));
  const row = (label: string, kind: Turn['kind'], asked: boolean): string[] => {
    const cpu = median(of(kind, asked).map(({ cpuMicrosPerEvent }) => cpuMicrosPerEvent));
    const latencies = ascending(of(kind, asked).flatMap((one) => [...one.latencies]));
    const times = [0.5, 0.99, 1].map((share) => (asked ? percentile(latencies, share).toFixed(1) : '–'));
    return [label, Math.round(rate(kind, asked)).toLocaleString('en-US'), cpu.toFixed(2), ...times];
  };
  const all = `${options.requests} req/s`;
  console.log('');
  printTable([
    ['', 'events/s', 'CPU µs/event', 'p50 ms', 'p99 ms', 'max ms'],
    row(`${options.events} events/s`, 'steady', false),
    row(`${options.events} events/s, ${all}`, 'steady', true),
    row('a backlog', 'backlog', false),
    row(`a backlog, ${all}`, 'backlog', true),
  ]);
  const p99 = percentile(ascending(of('steady', true).flatMap((one) => [...one.latencies])), 0.99);
  const ratios = (['steady', 'backlog'] as const).map((kind) => rate(kind, true) / rate(kind, false));
  const verdict = (good: boolean): string => (good ? 'PASS' : 'FAIL');
  console.log('');
  printTable([
    ['sync/status, p99', `${p99.toFixed(1)} ms`, `at most ${TARGET_P99_MS} ms`, verdict(p99 < TARGET_P99_MS)],
    ...ratios.map((ratio, i) => [
      `${i === 0 ? 'at a steady rate' : 'through a backlog'}, with ÷ without requests`,
      `${ratio.toFixed(3)}×`,
      `at least ${TARGET_RATIO}×`,
      verdict(ratio >= TARGET_RATIO),
    ]),
  ]);
  return p99 < TARGET_P99_MS && ratios.every((ratio) => ratio >= TARGET_RATIO);
}
