import { setTimeout as sleep } from 'node:timers/promises';
import {
  type ConnectionOptions,
  createTopicsV7,
  initProducerIdV4,
  listOffsetsV6,
  metadataV12,
} from '@platformatic/kafka';
import type { KafkaConfig } from '../../config/schema.ts';
import { messageOf, WaltideError } from '../../errors.ts';
import type { Log } from '../../log.ts';
import {
  type Api,
  type BrokerAddress,
  Connections,
  connectionOptions,
  isAuthenticationError,
  Silence,
} from './connections.ts';
import { isRetriable, KafkaError, kafkaErrorName } from './error-code.ts';

/** Errors before the first success are final after this long, attempts included. */
const FIRST_CONTACT_MS = 20_000;
/** A broker that is only busy with an election answers before. */
const UNREACHABLE_MS = 2_000;
const BACKOFF_FIRST_MS = 100;
const BACKOFF_MAX_MS = 2_000;
/** Metadata of a topic just created reaches all brokers within this; only then is a topic called missing. */
const TOPIC_SPREAD_MS = 5_000;

const LATE = new Error('no answer in time');

export const EARLIEST = -2n;
export const LATEST = -1n;
/** 1 counts only what a reader of committed records can reach; the client silently ignores anything but the number. */
export type Isolation = 0 | 1;

export interface TopicInfo {
  readonly name: string;
  /** Unique to this creation of the topic: one deleted and created again has another. */
  readonly id: string;
  /** Broker number of each partition's leader; -1 where there is none now. */
  readonly leaders: readonly number[];
}

export interface NewTopic {
  readonly name: string;
  readonly partitions: number;
  readonly settings: Readonly<Record<string, string>>;
}

export interface TopicPartition {
  readonly topic: string;
  readonly partition: number;
}

/** The brokers and what they know: metadata, topics, offsets. Everything here retries until it succeeds or `close`. */
export class Cluster {
  readonly config: KafkaConfig;
  readonly log: Log;
  readonly #seeds: readonly BrokerAddress[];
  readonly #options: ConnectionOptions;
  readonly #control: Connections;
  readonly #lanes = new Set<Connections>();
  readonly #closing = new AbortController();
  readonly #silence = new Silence();
  #brokers = new Map<number, BrokerAddress>();
  #controller = -1;
  #connected: Promise<void> | null = null;
  #contacted = false;

  constructor(config: KafkaConfig, log: Log) {
    this.config = config;
    this.log = log;
    this.#seeds = config.brokers.map(parseBroker);
    this.#options = connectionOptions(config);
    this.#control = this.lane();
  }

  /** A new set of connections, closed with the cluster. `requestTimeoutMs` overrides the configured one. */
  lane(requestTimeoutMs?: number): Connections {
    const options =
      requestTimeoutMs === undefined ? this.#options : { ...this.#options, requestTimeout: requestTimeoutMs };
    const lane = new Connections(this.config.clientId, options, this.#silence);
    this.#lanes.add(lane);
    return lane;
  }

  async dropLane(lane: Connections): Promise<void> {
    this.#lanes.delete(lane);
    await lane.close();
  }

  /** No broker has answered any attempt for a while. */
  get unreachable(): boolean {
    return this.#silence.ms > UNREACHABLE_MS;
  }

  get closed(): boolean {
    return this.#closing.signal.aborted;
  }

  broker(id: number): BrokerAddress | undefined {
    return this.#brokers.get(id);
  }

  /** Resolves once a broker has answered. Rejects with TRANSPORT_UNREACHABLE after about 20 s without an answer. */
  connect(): Promise<void> {
    this.#connected ??= this.metadata([]).then(
      () => undefined,
      (error: unknown) => {
        this.#connected = null;
        throw error;
      },
    );
    return this.#connected;
  }

  /** What the brokers know about `names`; topics that do not exist are absent from the map. */
  async metadata(names: readonly string[]): Promise<Map<string, TopicInfo>> {
    const response = await this.#any(
      (broker) => this.#control.call(broker, metadataV12.api, [...names], false, false),
      (answer) => this.#settledCode(answer),
    );
    this.#brokers = new Map(response.brokers.map(({ nodeId, host, port }) => [nodeId, { host, port }]));
    this.#controller = response.controllerId;
    const topics = new Map<string, TopicInfo>();
    for (const topic of response.topics) {
      const { name, topicId: id, errorCode } = topic;
      if (typeof name !== 'string' || errorCode === KafkaError.UNKNOWN_TOPIC_OR_PARTITION) continue;
      if (errorCode !== 0 && errorCode !== KafkaError.LEADER_NOT_AVAILABLE) throw topicError(name, errorCode, null);
      const leaders: number[] = [];
      for (const { partitionIndex, leaderId } of topic.partitions) leaders[partitionIndex] = leaderId;
      topics.set(name, { name, id, leaders });
    }
    return topics;
  }

  #settledCode(answer: metadataV12.MetadataResponse): number {
    return (
      answer.topics.find(({ errorCode }) => isRetriable(errorCode) && errorCode !== 3 && errorCode !== 5)?.errorCode ??
      0
    );
  }

  /** Like `metadata`, but waits a moment for topics that were created just now; those still absent are left out. */
  async settledMetadata(names: readonly string[], waitMs = TOPIC_SPREAD_MS): Promise<Map<string, TopicInfo>> {
    const deadline = performance.now() + waitMs;
    for (;;) {
      const topics = await this.metadata(names);
      const ready = names.every((name) => topics.get(name)?.leaders.every((leader) => leader >= 0) ?? false);
      if (ready || performance.now() > deadline) return topics;
      await this.sleep(BACKOFF_FIRST_MS);
    }
  }

  /** Creates what does not exist yet and resolves with all of `topics`; existing ones are used as they are. */
  async ensureTopics(topics: readonly NewTopic[]): Promise<Map<string, TopicInfo>> {
    const names = topics.map(({ name }) => name);
    const existing = await this.metadata(names);
    const missing = topics.filter(({ name }) => !existing.has(name));
    if (missing.length === 0) return existing;
    const { replicationFactor } = this.config;
    const request = missing.map(({ name, partitions, settings }) => ({
      name,
      numPartitions: partitions,
      replicationFactor,
      assignments: [],
      configs: Object.entries(settings).map(([key, value]) => ({ name: key, value })),
    }));
    await this.#any(
      (broker) =>
        this.#control.call(this.broker(this.#controller) ?? broker, createTopicsV7.api, request, 10_000, false),
      (answer) => {
        for (const { name, errorCode, errorMessage } of answer.topics) {
          if (errorCode === 0 || errorCode === KafkaError.TOPIC_ALREADY_EXISTS) continue;
          if (isRetriable(errorCode)) return errorCode;
          throw topicError(name, errorCode, errorMessage);
        }
        return 0;
      },
    );
    const created = await this.settledMetadata(names);
    for (const name of names) {
      if (!created.has(name)) throw topicError(name, KafkaError.UNKNOWN_TOPIC_OR_PARTITION, 'created, but not there');
    }
    return created;
  }

  /**
   * Log offsets of partitions that exist: EARLIEST = where the log starts, LATEST = where the next record goes, or with
   * isolation 1 where the oldest Kafka transaction begins that is still open.
   */
  async listOffsets(
    partitions: readonly TopicPartition[],
    timestamp: bigint,
    isolation: Isolation = 0,
  ): Promise<Map<string, bigint>> {
    const offsets = new Map<string, bigint>();
    let left = partitions;
    for (let attempt = 0; left.length > 0; attempt++) {
      if (attempt > 0) await this.sleep(backoffMs(attempt));
      const names = [...new Set(left.map(({ topic }) => topic))];
      const topics = await this.metadata(names);
      const gone = names.find((name) => !topics.has(name));
      if (gone !== undefined && attempt > 20) throw topicError(gone, KafkaError.UNKNOWN_TOPIC_OR_PARTITION, null);
      for (const [leader, group] of byLeader(left, topics)) {
        const broker = this.broker(leader);
        if (broker) await this.#listFrom(broker, group, timestamp, isolation, offsets);
      }
      left = left.filter((item) => !offsets.has(partitionKey(item.topic, item.partition)));
    }
    return offsets;
  }

  async #listFrom(
    broker: BrokerAddress,
    group: readonly TopicPartition[],
    timestamp: bigint,
    isolation: Isolation,
    into: Map<string, bigint>,
  ): Promise<void> {
    const topics = new Map<string, { partitionIndex: number; currentLeaderEpoch: number; timestamp: bigint }[]>();
    for (const { topic, partition } of group) {
      const list = topics.get(topic) ?? [];
      list.push({ partitionIndex: partition, currentLeaderEpoch: -1, timestamp });
      topics.set(topic, list);
    }
    const request = [...topics].map(([name, list]) => ({ name, partitions: list }));
    try {
      const response = await this.#control.call(broker, listOffsetsV6.api, -1, isolation, request);
      for (const { name, partitions } of response.topics) {
        for (const { partitionIndex, errorCode, offset } of partitions) {
          if (errorCode === 0) into.set(partitionKey(name, partitionIndex), offset);
          else if (!isRetriable(errorCode)) throw topicError(name, errorCode, null);
        }
      }
    } catch (error) {
      if (error instanceof WaltideError) throw error;
      this.log.warn({ err: error, broker: addressOf(broker) }, 'Kafka: asking for offsets failed, trying again');
    }
  }

  /** A fresh number for an idempotent producer. */
  async producerId(): Promise<{ id: bigint; epoch: number }> {
    const response = await this.#any(
      (broker) => this.#control.call(broker, initProducerIdV4.api, null, 60_000, -1n, -1),
      ({ errorCode }) => {
        if (errorCode === 0 || isRetriable(errorCode)) return errorCode;
        throw new WaltideError(
          'TRANSPORT_AUTHENTICATION',
          `Kafka gave no producer id: ${kafkaErrorName(errorCode)}`,
          'Grant the user IdempotentWrite on the cluster (Kafka before 2.8) and Write on the topics.',
        );
      },
    );
    return { id: response.producerId, epoch: response.producerEpoch };
  }

  /** One request that only `broker` can answer is the caller's to retry; this one may go to any. */
  any<Args extends readonly unknown[], Response>(
    api: Api<Args, Response>,
    code: (r: Response) => number,
    ...args: Args
  ): Promise<Response> {
    return this.#any((broker) => this.#control.call(broker, api, ...args), code);
  }

  /** Tries brokers in turn until one answers with a code that is 0 or final. */
  async #any<Response>(
    send: (broker: BrokerAddress) => Promise<Response>,
    code: (response: Response) => number,
  ): Promise<Response> {
    const deadline = performance.now() + FIRST_CONTACT_MS;
    let failure = '';
    for (let attempt = 0; ; attempt++) {
      const known = [...this.#brokers.values(), ...this.#seeds];
      const broker = known[attempt % known.length]!;
      try {
        const response = await this.#withDeadline(send(broker), deadline);
        this.#contacted = true;
        const errorCode = code(response);
        if (errorCode === 0) return response;
        failure = kafkaErrorName(errorCode);
      } catch (error) {
        if (error instanceof WaltideError) throw error;
        if (isAuthenticationError(error)) throw authenticationError(this.config, error);
        // What went wrong says more than that time ran out afterwards.
        if (failure === '' || error !== LATE) failure = `${addressOf(broker)}: ${deepMessage(error)}`;
      }
      if (this.closed) throw closedError();
      if (!this.#contacted && performance.now() >= deadline) throw unreachable(this.config, failure);
      if (attempt === known.length - 1 && this.#contacted) this.log.warn({ failure }, 'Kafka: no answer, trying again');
      await this.sleep(backoffMs(Math.floor(attempt / known.length)));
    }
  }

  /** A packet-dropping address answers nothing at all: the first contact must not wait for it longer than allowed. */
  async #withDeadline<T>(work: Promise<T>, deadline: number): Promise<T> {
    if (this.#contacted) return work;
    const timer = new AbortController();
    const late = sleep(Math.max(1, deadline - performance.now()), undefined, { signal: timer.signal }).then(() => {
      throw LATE;
    });
    late.catch(() => {});
    work.catch(() => {});
    return Promise.race([work, late]).finally(() => timer.abort());
  }

  /** Waits, or rejects with the error of a closed transport. */
  async sleep(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#closing.signal }).catch(() => {
      throw closedError();
    });
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all([...this.#lanes].map((lane) => lane.close()));
  }
}

export function partitionKey(topic: string, partition: number): string {
  return `${topic}:${partition}`;
}

export function backoffMs(attempt: number): number {
  return Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 10));
}

export function addressOf({ host, port }: BrokerAddress): string {
  return `${host}:${port}`;
}

export function closedError(): WaltideError {
  return new WaltideError('TRANSPORT', 'The Kafka transport is closed', 'Nothing to do where the process is stopping.');
}

function byLeader(items: readonly TopicPartition[], topics: Map<string, TopicInfo>): Map<number, TopicPartition[]> {
  const groups = new Map<number, TopicPartition[]>();
  for (const item of items) {
    const leader = topics.get(item.topic)?.leaders[item.partition] ?? -1;
    const group = groups.get(leader) ?? [];
    group.push(item);
    groups.set(leader, group);
  }
  return groups;
}

export function parseBroker(text: string): BrokerAddress {
  const colon = text.lastIndexOf(':');
  return { host: text.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(text.slice(colon + 1)) };
}

function topicError(topic: string, code: number, detail: string | null | undefined): WaltideError {
  const why = `${kafkaErrorName(code)}${detail ? `: ${detail}` : ''}`;
  if (code === KafkaError.UNKNOWN_TOPIC_OR_PARTITION) {
    return new WaltideError(
      'TOPIC_MISSING',
      `Topic ${topic} does not exist: ${why}`,
      'Check who deletes topics on this cluster.',
    );
  }
  if (code === 29 || code === 31) {
    return new WaltideError(
      'TRANSPORT_AUTHENTICATION',
      `Kafka forbids what Waltide needs on topic ${topic}: ${why}`,
      'Grant the user Create, Describe, Read and Write on the topics of this prefix.',
    );
  }
  return new WaltideError(
    'TRANSPORT',
    `Topic ${topic} cannot be used: ${why}`,
    'Create the topic by hand, or change transport.partitions, replicationFactor or topicPrefix.',
  );
}

function unreachable(config: KafkaConfig, failure: string): WaltideError {
  return new WaltideError(
    'TRANSPORT_UNREACHABLE',
    `No Kafka broker of ${config.brokers.join(', ')} answers: ${failure}`,
    'Check transport.brokers, that the cluster runs, and transport.ssl: a TLS port does not answer plain text.',
  );
}

function authenticationError(config: KafkaConfig, cause: unknown): WaltideError {
  return new WaltideError(
    'TRANSPORT_AUTHENTICATION',
    `Kafka (${config.brokers.join(', ')}) refused the credentials: ${deepMessage(cause)}`,
    'Check transport.sasl: mechanism, username and password.',
    { cause },
  );
}

export function deepMessage(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? ` ${messageOf(error.cause)}` : '';
  return `${messageOf(error)}${cause}`;
}
