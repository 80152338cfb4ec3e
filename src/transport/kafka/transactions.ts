import { addPartitionsToTxnV3, endTxnV3, findCoordinatorV4, initProducerIdV4 } from '@platformatic/kafka';
import { messageOf, WaltideError } from '../../errors.ts';
import { backoffMs, type Cluster, type TopicPartition } from './cluster.ts';
import type { Api, BrokerAddress, Connections } from './connections.ts';
import { isRetriable, KafkaError, kafkaErrorName } from './error-code.ts';

/** A producer's number, and how often it was renewed: the broker refuses all but the newest. */
export interface ProducerNumber {
  readonly id: bigint;
  readonly epoch: number;
}

const KEY_TYPE_TRANSACTION = 1;
/** A Kafka transaction takes tenths of a second; after this the broker gives up what a dead capture left open. */
const TIMEOUT_MS = 60_000;
/** The markers of the transaction before are still being written. */
const CONCURRENT_PAUSE_MS = 5;

/**
 * Kafka's transactions of one transactional id, as their coordinator sees them (KIP-98, without the implicit
 * beginnings of KIP-890, so that brokers from 2.5 on do). Every call tries again until it is answered or the
 * transport is closed; what cannot be healed by this number is `false`.
 */
export class Transactions {
  readonly #cluster: Cluster;
  readonly #lane: Connections;
  readonly id: string;
  #coordinator: BrokerAddress | null = null;

  constructor(cluster: Cluster, id: string) {
    this.#cluster = cluster;
    this.#lane = cluster.lane();
    this.id = id;
  }

  /** Takes the id over: whoever had it before can write nothing more, and what they left open is void. */
  open(): Promise<ProducerNumber> {
    return this.#init({ id: -1n, epoch: -1 });
  }

  /** The next number after `number`; what was open is void. Throws TRANSPORT_FENCED where another process has the id now. */
  renew(number: ProducerNumber): Promise<ProducerNumber> {
    return this.#init(number);
  }

  async #init({ id, epoch }: ProducerNumber): Promise<ProducerNumber> {
    const response = await this.#call(
      initProducerIdV4.api,
      (answer) => answer.errorCode,
      this.id,
      TIMEOUT_MS,
      id,
      epoch,
    );
    if (response.errorCode === 0) return { id: response.producerId, epoch: response.producerEpoch };
    throw refused(this.id, response.errorCode);
  }

  /** Resolves with true once these partitions are part of the transaction. */
  async add(number: ProducerNumber, partitions: readonly TopicPartition[]): Promise<boolean> {
    const topics = new Map<string, number[]>();
    for (const { topic, partition } of partitions) topics.set(topic, [...(topics.get(topic) ?? []), partition]);
    const request = {
      transactionalId: this.id,
      producerId: number.id,
      producerEpoch: number.epoch,
      verifyOnly: false,
      topics: [...topics].map(([name, list]) => ({ name, partitions: list })),
    };
    const codeOf = (answer: { resultsByTransaction: readonly TxnResults[] }): number => {
      const codes = answer.resultsByTransaction.flatMap(({ topicResults }) =>
        topicResults.flatMap(({ resultsByPartition }) => resultsByPartition.map((item) => item.partitionErrorCode)),
      );
      // Where one partition fails, the others were not attempted.
      return codes.find((code) => code !== 0 && code !== KafkaError.OPERATION_NOT_ATTEMPTED) ?? 0;
    };
    const response = await this.#call(addPartitionsToTxnV3.api, codeOf, [request]);
    return this.#outcome(codeOf(response));
  }

  /** Resolves with true once it is committed; false: it may be, or it is void. */
  async commit(number: ProducerNumber): Promise<boolean> {
    const { errorCode } = await this.#call(
      endTxnV3.api,
      (answer) => answer.errorCode,
      this.id,
      number.id,
      number.epoch,
      true,
    );
    return this.#outcome(errorCode);
  }

  close(): Promise<void> {
    return this.#cluster.dropLane(this.#lane);
  }

  #outcome(code: number): boolean {
    if (code === 0) return true;
    if (code === KafkaError.TOPIC_AUTHORIZATION_FAILED || code === KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
      throw refused(this.id, code);
    this.#cluster.log.warn({ code: kafkaErrorName(code) }, 'Kafka: a transaction failed, writing it again');
    return false;
  }

  async #call<Args extends readonly unknown[], Response>(
    api: Api<Args, Response>,
    codeOf: (response: Response) => number,
    ...args: Args
  ): Promise<Response> {
    for (let attempt = 0; ; attempt++) {
      try {
        this.#coordinator ??= await this.#findCoordinator();
        const response = await this.#lane.call(this.#coordinator, api, ...args);
        const code = codeOf(response);
        if (code === KafkaError.CONCURRENT_TRANSACTIONS) {
          await this.#cluster.sleep(Math.min(100, CONCURRENT_PAUSE_MS * (attempt + 1)));
          continue;
        }
        if (code === 0 || !isRetriable(code)) return response;
        this.#coordinator = null;
      } catch (error) {
        if (error instanceof WaltideError) throw error;
        this.#coordinator = null;
        if (attempt === 0)
          this.#cluster.log.warn({ err: messageOf(error) }, 'Kafka: no answer about a transaction, trying again');
      }
      await this.#cluster.sleep(backoffMs(attempt));
    }
  }

  async #findCoordinator(): Promise<BrokerAddress> {
    const { coordinators } = await this.#cluster.any(
      findCoordinatorV4.api,
      (response) => {
        const code = response.coordinators[0]?.errorCode ?? 0;
        return isRetriable(code) ? code : 0;
      },
      KEY_TYPE_TRANSACTION,
      [this.id],
    );
    const [found] = coordinators;
    if (found?.errorCode === 0) return { host: found.host, port: found.port };
    throw refused(this.id, found?.errorCode ?? KafkaError.COORDINATOR_NOT_AVAILABLE);
  }
}

interface TxnResults {
  readonly topicResults: readonly {
    readonly resultsByPartition: readonly { readonly partitionErrorCode: number }[];
  }[];
}

function refused(id: string, code: number): WaltideError {
  if (code === KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED || code === KafkaError.TOPIC_AUTHORIZATION_FAILED)
    return new WaltideError(
      'TRANSPORT_AUTHENTICATION',
      `Kafka forbids transactions under the transactional id ${id}: ${kafkaErrorName(code)}`,
      'Grant the user Write and Describe on that transactional id and on the topics of this prefix, or set transport.exactlyOnce to false.',
    );
  if (code === KafkaError.PRODUCER_FENCED || code === KafkaError.INVALID_PRODUCER_EPOCH)
    return new WaltideError(
      'TRANSPORT_FENCED',
      `Another capture has taken over the transactional id ${id}; this one may write nothing more`,
      'Run one capture per slot and topicPrefix. What this one had not committed is written by the other.',
    );
  return new WaltideError(
    'TRANSPORT',
    `Kafka refuses transactions under the transactional id ${id}: ${kafkaErrorName(code)}`,
    "Check the broker's transaction.* settings and its log, or set transport.exactlyOnce to false.",
  );
}
