import { WaltideError } from '../../errors.ts';
import { kafkaErrorName } from './error-code.ts';
import type { PartitionLog } from './partition-log.ts';

export function topicMissing(topic: string, what: string): WaltideError {
  return new WaltideError(
    'TOPIC_MISSING',
    `Topic ${topic} ${what}: what was published to it is lost`,
    'Find out who deletes topics, then copy everything again with `waltide run --recopy` (or into another transport.topicPrefix).',
  );
}

/** Brokers that restart may not know a topic for a moment. Missing for longer than this = deleted. */
const TOPIC_GONE_MS = 6_000;

/** Tells a topic that is missing for a moment from one that was deleted. */
export class Absence {
  #sinceMs: number | null = null;

  /** To be asked with every look at it: true once it has been missing in all of them for long enough. */
  isFinal(missing: boolean): boolean {
    if (!missing) this.#sinceMs = null;
    else this.#sinceMs ??= performance.now();
    return this.#sinceMs !== null && performance.now() - this.#sinceMs > TOPIC_GONE_MS;
  }
}

export function refused(log: PartitionLog, code: number, message: string | null): WaltideError {
  const why = `${kafkaErrorName(code)}${message ? `: ${message}` : ''}`;
  const rights = code === 29 || code === 31;
  return new WaltideError(
    rights ? 'TRANSPORT_AUTHENTICATION' : 'TRANSPORT',
    `Kafka refuses records for topic ${log.topic}, partition ${log.partition}: ${why}`,
    rights ? 'Grant the user Write on the topics of this prefix.' : "Check the topic's settings and the broker's log.",
  );
}
