import { protocolErrors, protocolErrorsCodesById } from '@platformatic/kafka';

/** The error codes of the Kafka protocol that are told apart here. */
export const KafkaError = {
  OFFSET_OUT_OF_RANGE: 1,
  CORRUPT_MESSAGE: 2,
  UNKNOWN_TOPIC_OR_PARTITION: 3,
  LEADER_NOT_AVAILABLE: 5,
  NOT_LEADER_OR_FOLLOWER: 6,
  REQUEST_TIMED_OUT: 7,
  MESSAGE_TOO_LARGE: 10,
  COORDINATOR_LOAD_IN_PROGRESS: 14,
  COORDINATOR_NOT_AVAILABLE: 15,
  NOT_COORDINATOR: 16,
  RECORD_LIST_TOO_LARGE: 18,
  ILLEGAL_GENERATION: 22,
  UNKNOWN_MEMBER_ID: 25,
  REBALANCE_IN_PROGRESS: 27,
  TOPIC_AUTHORIZATION_FAILED: 29,
  TOPIC_ALREADY_EXISTS: 36,
  NOT_CONTROLLER: 41,
  OUT_OF_ORDER_SEQUENCE_NUMBER: 45,
  DUPLICATE_SEQUENCE_NUMBER: 46,
  INVALID_PRODUCER_EPOCH: 47,
  INVALID_TXN_STATE: 48,
  INVALID_PRODUCER_ID_MAPPING: 49,
  CONCURRENT_TRANSACTIONS: 51,
  TRANSACTIONAL_ID_AUTHORIZATION_FAILED: 53,
  OPERATION_NOT_ATTEMPTED: 55,
  UNKNOWN_PRODUCER_ID: 59,
  MEMBER_ID_REQUIRED: 79,
  PRODUCER_FENCED: 90,
  TRANSACTION_ABORTABLE: 120,
} as const;

/** Codes after which the producer takes a new number and sends what is not yet confirmed once more. */
export const NEW_PRODUCER: ReadonlySet<number> = new Set([
  KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
  KafkaError.INVALID_PRODUCER_EPOCH,
  KafkaError.INVALID_PRODUCER_ID_MAPPING,
  KafkaError.UNKNOWN_PRODUCER_ID,
  KafkaError.INVALID_TXN_STATE,
  KafkaError.PRODUCER_FENCED,
  KafkaError.TRANSACTION_ABORTABLE,
]);

/** "NOT_LEADER_OR_FOLLOWER (6)". */
export function kafkaErrorName(code: number): string {
  return `${protocolErrorsCodesById[code] ?? 'UNKNOWN'} (${code})`;
}

/** True where Kafka's own table says that the same request may succeed later. */
export function isRetriable(code: number): boolean {
  const name = protocolErrorsCodesById[code];
  return name !== undefined && protocolErrors[name]?.canRetry === true;
}
