import { writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { openArena } from './arena.ts';
import { type Goal, PUBLICATION } from './contender.ts';
import { TopicWatch } from './kafka-topic.ts';
import { printMachine } from './report.ts';
import { build, VARIANTS, waltideKafkaUntilCaughtUp } from './waltide.ts';
import { createTable, digest, writeWorkload } from './workload.ts';

/*
 * The price of what Kafka can be asked for: the transaction topic, and exactly once. Every variant reads the same WAL
 * from a slot of its own, to the moment when the log says "caught up"; then a read_committed consumer counts.
 */
const SETTINGS = {
  fsync: 'off',
  synchronous_commit: 'off',
  autovacuum: 'off',
  max_wal_size: '8GB',
  checkpoint_timeout: '1h',
};
const COUNT_TIMEOUT_MS = 60_000;

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    events: { type: 'string', default: '600000' },
    json: { type: 'string' },
  },
});
const rounds = Number(options.rounds);
const rates = new Map<string, number[]>(VARIANTS.map(({ id }) => [id, []]));

await build();
const arena = await openArena({ kafka: true, settings: SETTINGS });
try {
  printMachine(arena.machine);
  await createTable(arena.client);
  await arena.client.query(`create publication ${PUBLICATION} for table bench`);
  for (let round = 1; round <= rounds; round++)
    for (const variant of VARIANTS) await waltideKafkaUntilCaughtUp(variant).prepare(arena, round);
  const workload = await writeWorkload(arena.client, Number(options.events));
  const goal: Goal = { ...workload, events: workload.inserts + workload.updates, digest: await digest(arena.client) };
  for (let round = 1; round <= rounds; round++) {
    for (const variant of VARIANTS) {
      await sleep(1_500);
      const { seconds } = await waltideKafkaUntilCaughtUp(variant).run(arena, round, goal);
      await count(`${variant.id}${round}.public.bench`, goal.events);
      rates.get(variant.id)!.push(goal.events / seconds);
      console.log(
        `round ${round}  ${variant.label}: ${Math.round(goal.events / seconds).toLocaleString('en-US')} events/s`,
      );
    }
  }
} finally {
  await arena.close();
}
const base = median(rates.get(VARIANTS[0]!.id)!);
for (const { id, label } of VARIANTS) {
  const rate = median(rates.get(id)!);
  console.log(
    `${label.padEnd(40)} ${Math.round(rate).toLocaleString('en-US').padStart(10)} events/s  ${(rate / base).toFixed(2)}×`,
  );
}
if (options.json) await writeFile(options.json, `${JSON.stringify(Object.fromEntries(rates), null, 2)}\n`);

/** Fails unless a read_committed consumer sees exactly so many changes. */
async function count(topic: string, events: number): Promise<void> {
  const watch = new TopicWatch(arena.kafka!.brokers, topic);
  let seen = 0;
  const stop = await watch.follow((value) => {
    if (value && !value.includes('"snapshot":"true"') && /"op":"[cud]"/.test(value.toString())) seen++;
  });
  const deadline = Date.now() + COUNT_TIMEOUT_MS;
  while (seen < events && Date.now() < deadline) await sleep(50);
  await sleep(500);
  await stop();
  if (seen !== events) throw new Error(`A consumer of ${topic} saw ${seen} changes of ${events}.`);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}
