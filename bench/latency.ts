import { writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { type OpenArena, openArena } from './arena.ts';
import { PUBLICATION } from './contender.ts';
import { debeziumProbe, duckdbProbe, kafkaProbe, type Probe, recvlogicalProbe } from './probes.ts';
import { ascending, percentile, printMachine, printTable } from './report.ts';
import { build } from './waltide.ts';
import { createTable } from './workload.ts';

const HELP = `npm run bench:latency -- [options]

  --seconds N      how long to measure each road (default 30)
  --interval-ms N  one insert per N ms (default 20)
  --peer           also measure Debezium, tuned for latency (needs Java 17 and Maven)
  --only A,B       of recvlogical, kafka, duckdb, debezium
  --json FILE      every latency that was measured
  --no-build       measure dist as it is
`;

/** The first rows pay for compilation, connections and metadata; a running pipeline has them behind it. */
const WARM_UP_MS = 3_000;
const FIRST_ROW_TIMEOUT_MS = 60_000;
/** A row that takes longer counts as lost. */
const LOST_AFTER_MS = 10_000;

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '30' },
    'interval-ms': { type: 'string', default: '20' },
    peer: { type: 'boolean', default: false },
    only: { type: 'string' },
    json: { type: 'string' },
    'no-build': { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

/** Of one row, on this process's own clock in ms. */
interface Times {
  /** Just before the INSERT was sent; in the row as well. */
  readonly sentAt: number;
  committedAt: number;
  seenAt: number;
}

interface Latencies {
  readonly id: string;
  readonly label: string;
  readonly targetMs: number | null;
  /** From the client's seeing the commit, ascending. */
  readonly sinceCommit: readonly number[];
  /** From sending the INSERT, ascending: never flattered by a slow answer to the client. */
  readonly sinceSent: readonly number[];
  readonly lost: number;
  readonly error: string | null;
}

if (options.help) console.log(HELP);
else await main();

async function main(): Promise<void> {
  if (!options['no-build']) await build();
  const all = [recvlogicalProbe(), kafkaProbe(), duckdbProbe(), debeziumProbe()];
  const wanted = options.only?.split(',') ?? all.map(({ id }) => id).filter((id) => id !== 'debezium' || options.peer);
  const probes = all.filter((probe) => wanted.includes(probe.id) && probe.unavailable() === '');
  const arena = await openArena({ kafka: probes.some(({ usesKafka }) => usesKafka), settings: {} });
  try {
    printMachine(arena.machine);
    await createTable(arena.client);
    await arena.client.query(`create publication ${PUBLICATION} for table bench`);
    const results: Latencies[] = [];
    for (const probe of probes) results.push(await attempt(arena, probe));
    print(results);
    if (options.json)
      await writeFile(options.json, `${JSON.stringify({ machine: arena.machine, results }, null, 2)}\n`);
    if (results.some((result) => !good(result))) process.exitCode = 1;
  } finally {
    await arena.close();
  }
}

async function attempt(arena: OpenArena, probe: Probe): Promise<Latencies> {
  const { id, label, targetMs } = probe;
  try {
    return { id, label, targetMs, ...(await measure(arena, probe)), error: null };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    console.error(`\n${label} failed: ${message}\n`);
    return { id, label, targetMs, sinceCommit: [], sinceSent: [], lost: 0, error: message };
  }
}

async function measure(arena: OpenArena, probe: Probe): Promise<Pick<Latencies, 'sinceCommit' | 'sinceSent' | 'lost'>> {
  const rows = new Map<number, Times>();
  const seen = (id: number) => {
    const row = rows.get(id);
    if (row && row.seenAt === 0) row.seenAt = performance.now();
  };
  await arena.client.query('truncate bench');
  const running = await probe.start(arena, seen);
  const writer = new pg.Client({ connectionString: arena.url });
  await writer.connect();
  try {
    const insert = inserter(writer, rows);
    await insert();
    await running.follow?.();
    await firstRow(rows);
    await steadily(insert, WARM_UP_MS);
    const warm = rows.size;
    await steadily(insert, Number(options.seconds) * 1000);
    const deadline = performance.now() + LOST_AFTER_MS;
    while ([...rows.values()].some(({ seenAt }) => seenAt === 0) && performance.now() < deadline) await sleep(20);
    const measured = [...rows.values()].slice(warm);
    const arrived = measured.filter(({ seenAt }) => seenAt !== 0);
    return {
      sinceCommit: ascending(arrived.map((row) => row.seenAt - row.committedAt)),
      sinceSent: ascending(arrived.map((row) => row.seenAt - row.sentAt)),
      lost: measured.length - arrived.length,
    };
  } finally {
    await writer.end();
    await running.stop();
  }
}

/** One committed insert per call. The row names itself, so that even raw bytes can be searched for it. */
function inserter(client: pg.Client, rows: Map<number, Times>): () => Promise<void> {
  const text = `insert into bench values ($1, $2, $3, '{"sku":"A-1"}', to_timestamp($4))`;
  return async () => {
    const id = rows.size + 1;
    const row: Times = { sentAt: performance.now(), committedAt: 0, seenAt: 0 };
    rows.set(id, row);
    await client.query({ name: 'insert', text, values: [id, `row-${id};`, id / 100, Date.now() / 1000] });
    row.committedAt = performance.now();
  };
}

async function firstRow(rows: Map<number, Times>): Promise<void> {
  const deadline = performance.now() + FIRST_ROW_TIMEOUT_MS;
  while (rows.get(1)?.seenAt === 0) {
    if (performance.now() > deadline)
      throw new Error(`The first row was not seen within ${FIRST_ROW_TIMEOUT_MS / 1000} s.`);
    await sleep(20);
  }
}

/** By the clock: a slow insert does not shift those after it. */
async function steadily(insert: () => Promise<void>, durationMs: number): Promise<void> {
  const intervalMs = Number(options['interval-ms']);
  const start = performance.now();
  for (let due = 0; due < durationMs; due += intervalMs) {
    const waitMs = start + due - performance.now();
    if (waitMs > 0) await sleep(waitMs);
    await insert();
  }
}

function print(results: readonly Latencies[]): void {
  const rows = [
    ['commit → visible, ms', 'p50', 'p95', 'p99', 'max', 'p99 since sent', 'rows', 'lost', 'target p99', ''],
  ];
  for (const result of results) {
    if (result.error !== null) {
      rows.push([result.label, `failed: ${result.error.split('\n')[0]}`]);
      continue;
    }
    const at = (fraction: number) => percentile(result.sinceCommit, fraction).toFixed(1);
    const sent = percentile(result.sinceSent, 0.99).toFixed(1);
    const counts = [String(result.sinceCommit.length), String(result.lost)];
    const target = result.targetMs === null ? ['–', ''] : [String(result.targetMs), good(result) ? 'PASS' : 'FAIL'];
    rows.push([result.label, at(0.5), at(0.95), at(0.99), at(1), sent, ...counts, ...target]);
  }
  console.log('');
  printTable(rows);
}

function good({ error, lost, targetMs, sinceCommit }: Latencies): boolean {
  return error === null && lost === 0 && (targetMs === null || percentile(sinceCommit, 0.99) <= targetMs);
}
