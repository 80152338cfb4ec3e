import { type Admin, Kafka, logLevel } from 'kafkajs';

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
    const consumer = this.#kafka.consumer({
      groupId: `bench-${process.pid}-${this.#topic}`,
      maxBytesPerPartition: 8_388_608,
    });
    try {
      await consumer.connect();
      await consumer.subscribe({ topic: this.#topic, fromBeginning: true });
      let seen = 0;
      await new Promise<void>((resolve, reject) => {
        const run = consumer.run({
          eachBatch: async ({ batch }) => {
            try {
              for (const { value } of batch.messages) each(value);
            } catch (error) {
              reject(error);
            }
            seen += batch.messages.length;
            if (seen >= records) resolve();
          },
        });
        run.catch(reject);
      });
    } finally {
      await consumer.disconnect();
    }
  }

  disconnect(): Promise<void> {
    return this.#admin.disconnect();
  }
}
