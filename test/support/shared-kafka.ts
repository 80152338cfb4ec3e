import { startKafka } from './kafka-server.ts';
import { demand, type Shared } from './on-demand.ts';

/** One broker for the whole test run. */
export const SHARED_KAFKA: Shared = {
  start: async () => {
    const kafka = await startKafka();
    return { address: kafka.brokers, stop: () => kafka.stop() };
  },
};

/**
 * The brokers that all tests of this run share; use topic and group names of your own. Never stop or restart it:
 * a test that does so starts one for itself.
 */
export async function ensureSharedKafka(): Promise<string[]> {
  return (await demand('kafka', SHARED_KAFKA)) as string[];
}
