import type { Log } from '../../../log.ts';
import { topicMissing } from '../producer-errors.ts';
import type { Progress } from '../progress.ts';

/** Topics that were there once. Only where nothing is written to them any more does reading go on without them. */
export class DeletedTopics {
  readonly #log: Log;
  readonly #topics = new Set<string>();

  constructor(log: Log) {
    this.#log = log;
  }

  has(topic: string): boolean {
    return this.#topics.has(topic);
  }

  /**
   * It is gone, of which `applied` records (all partitions together) are in the sink. Throws TOPIC_MISSING where its
   * table is captured, as far as `progress` knows.
   */
  add(topic: string, applied: bigint, progress: Progress | null): void {
    if (this.#topics.has(topic)) return;
    const ends = progress?.ends.get(topic);
    if (!progress || (ends && !progress.retired.includes(topic))) throw topicMissing(topic, 'does not exist any more');
    this.#topics.add(topic);
    const written = ends?.reduce((sum, end) => sum + end, 0n) ?? 0n;
    const lacks = applied < written ? `; its last ${written - applied} records never reached the sink` : '';
    this.#log.warn({ topic }, `Kafka: the topic of a table that is not captured any more was deleted${lacks}`);
  }

  /** What progress says of the topics that are left, or written to again. */
  without(progress: Progress): Progress {
    for (const topic of this.#topics)
      if (progress.ends.has(topic) && !progress.retired.includes(topic)) this.#topics.delete(topic);
    if (this.#topics.size === 0) return progress;
    return { ...progress, ends: new Map([...progress.ends].filter(([topic]) => !this.#topics.has(topic))) };
  }
}
