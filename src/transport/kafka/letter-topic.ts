import type { Cluster } from './cluster.ts';
import type { PartitionLog } from './partition-log.ts';
import { Producer } from './producer.ts';
import { endsOf } from './producer-topics.ts';
import { deadLetterTopic, letterTopic } from './topic.ts';

/** What sinks refused, written to the topic of dead letters by a producer of its own, which the apply side has as well. */
export class LetterTopic {
  readonly #cluster: Cluster;
  #open: Promise<{ producer: Producer; log: PartitionLog }> | null = null;
  #failure: Error | null = null;

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  /** Resolves = durable, or too large for the topic, which the log says: the control schema has it anyway. */
  async put(text: string): Promise<void> {
    this.#open ??= this.#connect();
    try {
      const { producer, log } = await this.#open;
      await Promise.race([producer.append(log, '', text), this.#failed(producer)]);
    } catch (error) {
      this.#open = null;
      throw this.#failure ?? error;
    }
  }

  close(error: Error): void {
    void this.#open?.then(
      ({ producer }) => producer.fail(error),
      () => {},
    );
  }

  async #connect(): Promise<{ producer: Producer; log: PartitionLog }> {
    await this.#cluster.connect();
    const tooLarge = async ({ topic }: PartitionLog): Promise<void> =>
      this.#cluster.log.warn({ topic }, 'Kafka: a dead letter is too large for its topic; it is in the control schema');
    const producer = new Producer(this.#cluster, tooLarge, (error) => this.#onFailure(error), null);
    producer.open(await this.#cluster.producerId());
    const name = deadLetterTopic(this.#cluster.config.topicPrefix);
    const info = (await this.#cluster.ensureTopics([letterTopic(name)])).get(name)!;
    const ends = await endsOf(this.#cluster, [info]);
    return { producer, log: producer.topics.add(info, [...ends.values()])[0]! };
  }

  #onFailure: (error: Error) => void = () => {};

  #failed(producer: Producer): Promise<never> {
    if (producer.failure) return Promise.reject(producer.failure);
    return new Promise((_resolve, reject) => {
      this.#onFailure = (error) => {
        this.#failure = error;
        reject(error);
      };
    });
  }
}
