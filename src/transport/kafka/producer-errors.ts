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

export function refused(log: PartitionLog, code: number, message: string | null): WaltideError {
  const why = `${kafkaErrorName(code)}${message ? `: ${message}` : ''}`;
  const rights = code === 29 || code === 31;
  return new WaltideError(
    rights ? 'TRANSPORT_AUTHENTICATION' : 'TRANSPORT',
    `Kafka refuses records for topic ${log.topic}, partition ${log.partition}: ${why}`,
    rights ? 'Grant the user Write on the topics of this prefix.' : "Check the topic's settings and the broker's log.",
  );
}
