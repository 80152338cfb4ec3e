import { randomUUID } from 'node:crypto';
import { type Admin, Kafka, logLevel } from 'kafkajs';

/** Offsets may count what no consumer gets (transaction markers): reading must end all the same. */
const STALL_TIMEOUT_MS = 20_000;

/** Looks at one topic of one partition, from outside the contender that fills it. */
export class TopicWatch {
  readonly #kafka: Kafka;
  readonly #admin: Admin;
  readonly #topic: string;

  constructor(brokers: string[], topic: string) {
    this.#kafka = new Kafka({ brokers, clientId: 'bench', logLevel: logLevel.NOTHING });
    this.#admin = this.#kafka.admin();
    this.#topic = topic;
  }

  connect(): Promise<void> {
    return this.#admin.connect();
  }

  /** Records that the in-sync replicas have; 0 for a topic that is not there yet. */
  async records(): Promise<number> {
    try {
      const partitions = await this.#admin.fetchTopicOffsets(this.#topic);
      return partitions.reduce((sum, { high, low }) => sum + Number(high) - Number(low), 0);
    } catch {
      return 0;
    }
  }

  /** Calls `each` for every value of the topic, which holds `records` of them. */
  async read(records: number, each: (value: Buffer | null) => void): Promise<void> {
    let seen = 0;
    let stalled: NodeJS.Timeout | undefined;
    let stop: () => Promise<void> = async () => {};
    const finished = new Promise<void>((resolve, reject) => {
      const next = (value: Buffer | null) => {
        try {
          each(value);
        } catch (error) {
          reject(error);
        }
        if (++seen === records) resolve();
      };
      let before = -1;
      stalled = setInterval(() => {
        if (seen === before) reject(new Error(`Only ${seen} of ${records} records could be read.`));
        before = seen;
      }, STALL_TIMEOUT_MS);
      this.follow(next).then((unfollow) => {
        stop = unfollow;
      }, reject);
    });
    await finished.finally(() => {
      clearInterval(stalled);
      return stop();
    });
  }

  /** Calls `each` for every value from the first on, as soon as it comes. Returns what ends that. */
  async follow(each: (value: Buffer | null) => void): Promise<() => Promise<void>> {
    const groupId = `bench-${randomUUID()}`;
    // minBytes 1: the broker answers a waiting fetch with the first record that arrives.
    const consumer = this.#kafka.consumer({ groupId, minBytes: 1, maxBytesPerPartition: 8_388_608 });
    await consumer.connect();
    await consumer.subscribe({ topic: this.#topic, fromBeginning: true });
    await consumer.run({
      eachBatch: async ({ batch }) => {
        for (const { value } of batch.messages) each(value);
      },
    });
    return () => consumer.disconnect();
  }

  disconnect(): Promise<void> {
    return this.#admin.disconnect();
  }
}
