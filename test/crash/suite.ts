import { afterAll, beforeAll, describe, it } from 'vitest';
import { type KafkaServer, startKafka } from '../support/kafka-server.ts';
import { startPostgres } from '../support/postgres.ts';
import { type Arena, Episode } from './episode.ts';
import { ROUNDS_PER_EPISODE } from './plan.ts';

/** A round takes one to three seconds, or ten where a server is started again. */
const EPISODE_TIMEOUT_MS = 600_000;

export interface SuiteOptions {
  readonly transport: 'in-process' | 'kafka';
  /** Where WALTIDE_CRASH_ROUNDS does not say. */
  readonly rounds: number;
}

/** Goal: whatever dies, and whenever, no row is lost, doubled or changed. */
export function crashSuite({ transport, rounds }: SuiteOptions): void {
  const total = Number(process.env.WALTIDE_CRASH_ROUNDS ?? rounds);
  const first = Number(process.env.WALTIDE_CRASH_SEED ?? Date.now() % 1_000_000);
  describe(`kill -9, ${transport}: ${total} rounds from seed ${first}`, () => {
    let arena: Arena;
    beforeAll(async () => {
      const kafka: KafkaServer | null = transport === 'kafka' ? await startKafka() : null;
      // Large transactions then come while they are open, as they do in production.
      arena = { postgres: await startPostgres({ logical_decoding_work_mem: '64kB' }), kafka };
    });
    afterAll(() => Promise.all([arena.postgres.stop('immediate'), arena.kafka?.stop()]));

    for (let done = 0, seed = first; done < total; done += ROUNDS_PER_EPISODE, seed++) {
      it(`seed ${seed}`, () => new Episode(arena, seed).run(total - done), EPISODE_TIMEOUT_MS);
    }
  });
}
