import type { CapturedTables } from '../../postgres/captured.ts';
import type { Cluster, TopicInfo } from './cluster.ts';
import { topicMissing } from './producer-errors.ts';
import type { Progress } from './progress.ts';
import { checkTopicNames, messageTopic, tableTopic, transactionTopic } from './topic.ts';

/** Which topics are those of tables captured now: the others may be deleted by whoever wants their room. */
export class CapturedTopics {
  readonly #prefix: string;
  /** Null where nobody said what is captured: then every topic is needed. */
  readonly #captured: CapturedTables | null;
  readonly #marks: boolean;
  #version = -1;
  #needed: ReadonlySet<string> = new Set();

  /** `marks`: the transaction topic is being written. Throws as `checkTopicNames`. */
  constructor(prefix: string, captured: CapturedTables | null, marks: boolean) {
    this.#prefix = prefix;
    this.#captured = captured;
    this.#marks = marks;
    if (captured) checkTopicNames(prefix, captured.values());
  }

  /** Those of `topics` to which nothing is written any more. */
  retired(topics: Iterable<string>): string[] {
    const captured = this.#captured;
    if (!captured) return [];
    if (captured.version !== this.#version) {
      this.#version = captured.version;
      const needed = captured.values().map((table) => tableTopic(this.#prefix, table));
      needed.push(messageTopic(this.#prefix));
      if (this.#marks) needed.push(transactionTopic(this.#prefix));
      this.#needed = new Set(needed);
    }
    return [...topics].filter((topic) => !this.#needed.has(topic));
  }

  /**
   * Topics that progress speaks of, of which `deleted` gets those that are gone with the ends that they had. One that is gone
   * and needed is an error, unless it or everything is to be written anew anyway.
   */
  async find(
    cluster: Cluster,
    last: Progress | null,
    needed: boolean,
    deleted: Map<string, bigint[]>,
  ): Promise<Map<string, TopicInfo>> {
    const names = [...(last?.ends.keys() ?? [])];
    if (names.length === 0) return new Map();
    const infos = await cluster.metadata(names);
    const missing = names.filter((name) => !infos.has(name));
    const retired = this.retired(missing);
    const settled =
      retired.length === missing.length ? infos : await cluster.settledMetadata(names, needed ? 5_000 : 500);
    if (!needed) return settled;
    for (const topic of missing) {
      if (settled.has(topic)) continue;
      if (!retired.includes(topic)) throw topicMissing(topic, 'does not exist any more');
      deleted.set(topic, [...last!.ends.get(topic)!]);
      cluster.log.warn({ topic }, 'Kafka: the topic of a table that is not captured any more was deleted');
    }
    return settled;
  }
}
