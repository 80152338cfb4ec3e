import { writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type OpenArena, openArena } from './arena.ts';
import { type Contender, type Goal, PUBLICATION, type Sample } from './contender.ts';
import { debezium } from './debezium.ts';
import { pgRecvlogical } from './pg-recvlogical.ts';
import {
  type Figures,
  figures,
  passes,
  printMachine,
  printResults,
  printTargets,
  type Result,
  targets,
} from './report.ts';
import { build, waltideCapture, waltideDuckdb, waltideKafka } from './waltide.ts';
import { createTable, digest, writeWorkload } from './workload.ts';

const HELP = `npm run bench -- [options]

  --peer           also measure Debezium (needs Java 17 and Maven)
  --rounds N       every contender N times from slots of its own; medians are shown (default 1)
  --events N       changes to write, five inserts to one update (default 600000)
  --only A,B       of recvlogical, capture, duckdb, kafka, debezium
  --json FILE      everything that was measured
  --no-build       measure dist as it is
`;

/** Written without waiting for the disk, and no background work of the server while others are measured. */
const SETTINGS = {
  fsync: 'off',
  synchronous_commit: 'off',
  autovacuum: 'off',
  shared_buffers: '256MB',
  max_wal_size: '8GB',
  checkpoint_timeout: '1h',
  max_wal_senders: '60',
  max_replication_slots: '60',
};
/** Lets the server and the kernel finish what the one before caused. */
const PAUSE_MS = 1_500;

const { values: options } = parseArgs({
  options: {
    peer: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '1' },
    events: { type: 'string', default: '600000' },
    only: { type: 'string' },
    json: { type: 'string' },
    'no-build': { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

if (options.help) console.log(HELP);
else await main();

async function main(): Promise<void> {
  if (!options['no-build']) await build();
  const contenders = chosen();
  const rounds = Number(options.rounds);
  const kafka = contenders.some(({ id }) => id === 'kafka' || id === 'debezium');
  const arena = await openArena({ kafka, settings: SETTINGS });
  try {
    printMachine(arena.machine);
    const { results, goal } = await run(arena, contenders, rounds);
    const by = new Map<string, Figures>();
    for (const result of results) {
      const of = figures(result, goal.events);
      if (of) by.set(result.id, of);
    }
    const found = targets(by);
    console.log(
      `\n${goal.inserts} inserts + ${goal.updates} updates, ${Math.round(goal.walBytes / 1e6)} MB of WAL, ${rounds} round(s)\n`,
    );
    printResults(results, goal.events);
    console.log('');
    printTargets(found);
    if (options.json) {
      const report = { machine: arena.machine, goal, rounds, results, figures: Object.fromEntries(by), targets: found };
      await writeFile(options.json, `${JSON.stringify(report, null, 2)}\n`);
    }
    if (results.some(({ error }) => error !== null) || !found.every(passes)) process.exitCode = 1;
  } finally {
    await arena.close();
  }
}

/** Those that can run here, in the order in which they run. */
function chosen(): Contender[] {
  const all = [pgRecvlogical(), waltideCapture(), waltideDuckdb(), waltideKafka(), debezium()];
  const wanted = options.only?.split(',') ?? all.map(({ id }) => id).filter((id) => id !== 'debezium' || options.peer);
  return all.filter((contender) => {
    if (!wanted.includes(contender.id)) return false;
    const why = contender.unavailable();
    if (why) console.log(`Left out: ${contender.label}: ${why}.`);
    return why === '';
  });
}

/** Slots first, then the workload once, then each contender from its own slot. */
async function run(
  arena: OpenArena,
  contenders: readonly Contender[],
  rounds: number,
): Promise<{ results: Result[]; goal: Goal }> {
  await createTable(arena.client);
  await arena.client.query(`create publication ${PUBLICATION} for table bench`);
  const errors = new Map<string, string>();
  const samples = new Map<string, Sample[]>();
  const attempt = async (contender: Contender, what: () => Promise<void>) => {
    if (errors.has(contender.id)) return;
    await what().catch((error: unknown) => {
      const message = error instanceof Error ? error.message : String(error);
      errors.set(contender.id, message);
      console.error(`\n${contender.label} failed: ${message}\n`);
    });
  };
  for (let round = 1; round <= rounds; round++) {
    for (const contender of contenders) await attempt(contender, () => contender.prepare(arena, round));
  }
  const workload = await writeWorkload(arena.client, Number(options.events));
  const goal: Goal = { ...workload, events: workload.inserts + workload.updates, digest: await digest(arena.client) };
  for (let round = 1; round <= rounds; round++) {
    for (const contender of contenders) {
      await attempt(contender, async () => {
        await sleep(PAUSE_MS);
        const sample = await contender.run(arena, round, goal);
        samples.set(contender.id, [...(samples.get(contender.id) ?? []), sample]);
        const rate = Math.round(goal.events / sample.seconds).toLocaleString('en-US');
        console.log(`round ${round}  ${contender.label}: ${rate} events/s`);
      });
    }
  }
  const results = contenders.map(({ id, label }) => ({
    id,
    label,
    samples: samples.get(id) ?? [],
    error: errors.get(id) ?? null,
  }));
  return { results, goal };
}
