import { writeFile } from 'node:fs/promises';
import { Agent } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import type { ControlFile } from '../src/api/control-file.ts';
import { type OpenArena, openArena } from './arena.ts';
import { controlOf, end, newestId, post, startWaltide } from './probes.ts';
import { ascending, percentile, printMachine, printTable } from './report.ts';
import { build, common } from './waltide.ts';
import { createTable } from './workload.ts';

const HELP = `npx tsx bench/strong-write.ts [options]

  --writes N    strong writes, and as many plain inserts between them (default 500)
  --pause-ms N  idle time before each (default 50)
  --json FILE   every latency that was measured
  --no-build    measure dist as it is
`;

const TARGET_P99_MS = 100;
const WARM_UP_WRITES = 50;
/** As in the latency benchmark; adds at most this much to what a plain insert takes. */
const POLL_MS = 4;

const { values: options } = parseArgs({
  options: {
    writes: { type: 'string', default: '500' },
    'pause-ms': { type: 'string', default: '50' },
    json: { type: 'string' },
    'no-build': { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

/** In ms, of one kind of write. */
interface Latencies {
  readonly label: string;
  readonly sinceSent: number[];
  /** Null where the client does not see the commit. */
  readonly sinceCommit: number[] | null;
}

if (options.help) console.log(HELP);
else await main();

async function main(): Promise<void> {
  if (!options['no-build']) await build();
  const arena = await openArena({ kafka: false, settings: {} });
  try {
    printMachine(arena.machine);
    await createTable(arena.client);
    const results = await measure(arena);
    print(results);
    if (options.json)
      await writeFile(options.json, `${JSON.stringify({ machine: arena.machine, results }, null, 2)}\n`);
    if (percentile(results[0].sinceSent, 0.99) >= TARGET_P99_MS) process.exitCode = 1;
  } finally {
    await arena.close();
  }
}

/** By turns, so that whatever else the machine does meets both alike. */
async function measure(arena: OpenArena): Promise<[Latencies, Latencies]> {
  const name = 'strong';
  const config = {
    ...common(arena, name),
    sinks: [{ name: 'bench', type: 'duckdb' as const, path: join(arena.dir, 'strong.duckdb') }],
    writes: { enabled: true },
  };
  const child = await startWaltide(arena, name, config, []);
  const control = await controlOf(config.stateDir!, child, arena, name);
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const client = new pg.Client({ connectionString: arena.url });
  await client.connect();
  const strong: Latencies = { label: 'strong write: sent → in the sink → answered', sinceSent: [], sinceCommit: null };
  const plain: Latencies = { label: 'plain insert: sent → visible in a query', sinceSent: [], sinceCommit: [] };
  try {
    await started(control, agent);
    let id = 0;
    const turns = WARM_UP_WRITES + Number(options.writes);
    for (let turn = 0; turn < turns; turn++) {
      const strongMs = await strongWrite(control, agent, ++id);
      const { sentMs, committedMs } = await plainInsert(client, control, agent, ++id);
      if (turn < WARM_UP_WRITES) continue;
      strong.sinceSent.push(strongMs);
      plain.sinceSent.push(sentMs);
      plain.sinceCommit!.push(committedMs);
    }
    for (const { sinceSent, sinceCommit } of [strong, plain]) {
      ascending(sinceSent);
      if (sinceCommit) ascending(sinceCommit);
    }
    return [strong, plain];
  } finally {
    agent.destroy();
    await client.end();
    await end(child);
  }
}

async function started(control: ControlFile, agent: Agent): Promise<void> {
  for (;;) {
    const found = await newestId(control, agent).catch(() => null);
    if (found !== null) return;
    await sleep(100);
  }
}

async function strongWrite(control: ControlFile, agent: Agent, id: number): Promise<number> {
  await sleep(Number(options['pause-ms']));
  const at = performance.now();
  const answer = (await post(control, agent, '/sync/operation', {
    ...{ table_name: 'public.bench', operation_type: 'create', consistency_level: 'strong' },
    data: { id, name: `row-${id};`, amount: id / 100, payload: { sku: 'A-1' }, created_at: new Date().toISOString() },
  })) as { status: string };
  const ms = performance.now() - at;
  if (answer.status !== 'applied') throw new Error(`Write ${id} was answered as ${answer.status}.`);
  if ((await newestId(control, agent)) !== id) throw new Error(`Write ${id} was answered, and is not in the sink.`);
  return ms;
}

/** What anyone has without us: insert, commit, look until it is there. */
async function plainInsert(
  client: pg.Client,
  control: ControlFile,
  agent: Agent,
  id: number,
): Promise<{ sentMs: number; committedMs: number }> {
  await sleep(Number(options['pause-ms']));
  const text = `insert into bench values ($1, $2, $3, '{"sku":"A-1"}', now())`;
  const sentAt = performance.now();
  await client.query({ name: 'insert', text, values: [id, `row-${id};`, id / 100] });
  const committedAt = performance.now();
  while ((await newestId(control, agent)) < id) await sleep(POLL_MS);
  const seenAt = performance.now();
  return { sentMs: seenAt - sentAt, committedMs: seenAt - committedAt };
}

function print([strong, plain]: [Latencies, Latencies]): void {
  const row = (label: string, values: readonly number[], verdict: string): string[] => [
    label,
    ...[0.5, 0.95, 0.99, 1].map((fraction) => percentile(values, fraction).toFixed(1)),
    verdict,
  ];
  const met = percentile(strong.sinceSent, 0.99) < TARGET_P99_MS;
  console.log('');
  printTable([
    ['ms, idle pipeline', 'p50', 'p95', 'p99', 'max', `p99 < ${TARGET_P99_MS}`],
    row(strong.label, strong.sinceSent, met ? 'PASS' : 'FAIL'),
    row(plain.label, plain.sinceSent, ''),
    row('plain insert: commit → visible in a query', plain.sinceCommit!, ''),
  ]);
  const ratio = (fraction: number): string =>
    (percentile(strong.sinceSent, fraction) / percentile(plain.sinceCommit!, fraction)).toFixed(2);
  console.log(`\nstrong write ÷ bare commit → visible: p50 ${ratio(0.5)}, p99 ${ratio(0.99)}`);
}
