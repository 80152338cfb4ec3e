import { FAILPOINTS, type Failpoint } from '../../src/failpoint.ts';
import type { Role } from '../../src/pipeline/status.ts';
import { Random } from '../support/random.ts';

/** What must happen so that a process comes to a point at all. */
export interface Way {
  /** Which of two processes comes there; in-process it is the one there is. */
  readonly role: 'capture' | 'apply';
  /** Begin with a new slot and a first copy. */
  readonly recopy?: true;
  /** The point lies in Kafka's road. */
  readonly kafkaOnly?: true;
  /** The point lies in the transactions that `transport.exactlyOnce` writes. */
  readonly exactlyOnce?: true;
  /** What to do beside the workload, again and again until the process is dead. */
  readonly provoke?: Provocation;
  /** At which coming there to die at most; 1 where it comes once. */
  readonly timesMax: number;
}

export type Provocation = 'snapshot' | 'ddl' | 'large-transaction';

/** Keyed by every point there is: a new one does not compile before someone says how to get there. */
export const WAYS: Readonly<Record<Failpoint, Way | null>> = {
  'before-slot': { role: 'capture', recopy: true, timesMax: 1 },
  'after-slot': { role: 'capture', recopy: true, timesMax: 1 },
  'during-copy': { role: 'capture', recopy: true, timesMax: 3 },
  'after-table-copied': { role: 'capture', recopy: true, timesMax: 4 },
  'before-chunk': { role: 'capture', provoke: 'snapshot', timesMax: 3 },
  // Of large chunks: test/crash/snapshot.pg.test.ts dies there.
  'chunk-loaded': null,
  'chunk-committed': null,
  'after-chunk-before-save': { role: 'capture', provoke: 'snapshot', timesMax: 3 },
  'after-chunk-saved': { role: 'capture', provoke: 'snapshot', timesMax: 3 },
  'before-snapshot-end': { role: 'capture', provoke: 'snapshot', timesMax: 1 },
  'after-produce': { role: 'capture', kafkaOnly: true, timesMax: 20 },
  'before-kafka-commit': { role: 'capture', kafkaOnly: true, exactlyOnce: true, timesMax: 10 },
  'after-kafka-commit': { role: 'capture', kafkaOnly: true, exactlyOnce: true, timesMax: 10 },
  'before-sink-commit': { role: 'apply', timesMax: 10 },
  'after-sink-commit': { role: 'apply', timesMax: 10 },
  'during-ddl': { role: 'capture', provoke: 'ddl', timesMax: 3 },
  'during-spill': { role: 'capture', provoke: 'large-transaction', timesMax: 3 },
  'during-streamed-delivery': { role: 'capture', provoke: 'large-transaction', timesMax: 3 },
  // By test/route/dead-letters.pg.test.ts: nothing is refused here.
  'after-letter': null,
  'before-acknowledge': { role: 'capture', timesMax: 20 },
  // Of the write queue: test/write/weak.pg.test.ts dies there.
  'before-operations-commit': null,
  'after-operations-commit': null,
  // Of exports, backups and restores: test/recovery dies there.
  'during-export': null,
  'before-export-rename': null,
  'after-export-rename': null,
  'during-backup': null,
  'before-backup-rename': null,
  'during-restore': null,
  'before-restore-rename': null,
  // Of alerts: test/control/alert-webhooks.pg.test.ts dies there.
  'before-notification': null,
  'after-notification': null,
};

export type Fault =
  | { readonly kind: 'point'; readonly point: Failpoint; readonly times: number; readonly way: Way }
  | { readonly kind: 'time'; readonly afterMs: number; readonly victims: readonly Role[] }
  | { readonly kind: 'postgres' | 'kafka'; readonly afterMs: number };

/** Rounds that share a database, so that what a crash leaves behind meets the next one. */
export const ROUNDS_PER_EPISODE = 5;

/** What goes wrong in each round of the episode with this seed. Consecutive seeds come by every point in turn. */
export function planEpisode(seed: number, transport: 'in-process' | 'kafka'): Fault[] {
  const random = new Random(seed);
  const points = FAILPOINTS.flatMap((point) => {
    const way = WAYS[point];
    return way ? [{ point, way }] : [];
  });
  const ofKafka = points.filter(({ way }) => way.kafkaOnly);
  const others = points.filter(({ way }) => !way.kafkaOnly);
  // One of a Kafka episode's two points lies in Kafka's road.
  const perEpisode = transport === 'kafka' ? 1 : 2;
  return Array.from({ length: ROUNDS_PER_EPISODE }, (_, i): Fault => {
    const afterMs = 100 + random.int(900);
    if (i % 2 === 1) {
      const turn = seed * perEpisode + ((i >> 1) % perEpisode);
      const { point, way } =
        transport === 'kafka' && i === 1 ? ofKafka[seed % ofKafka.length]! : others[turn % others.length]!;
      return { kind: 'point', point, way, times: 1 + random.int(way.timesMax) };
    }
    // Starting again takes a broker seconds, so it is killed seldom.
    if (i === 2 && transport === 'kafka' && seed % 4 === 0) return { kind: 'kafka', afterMs };
    if (i === 2 && seed % 2 === 0) return { kind: 'postgres', afterMs };
    const victims: Role[] =
      transport === 'kafka' ? random.pick<Role[]>([['capture'], ['apply'], ['capture', 'apply']]) : ['all'];
    return { kind: 'time', afterMs, victims };
  });
}

export function describeFault(fault: Fault): string {
  if (fault.kind === 'point') return `at ${fault.point}@${fault.times}`;
  if (fault.kind === 'time') return `kill ${fault.victims.join(' and ')} after ${fault.afterMs} ms`;
  return `kill ${fault.kind} after ${fault.afterMs} ms`;
}
