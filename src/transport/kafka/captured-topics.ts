import type { CapturedTables } from '../../postgres/captured.ts';
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
}
