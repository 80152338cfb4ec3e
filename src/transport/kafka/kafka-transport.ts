import { setTimeout as sleep } from 'node:timers/promises';
import type { KafkaConfig } from '../../config/schema.ts';
import type { Letters } from '../../dead-letter/dead-letter.ts';
import { WaltideError } from '../../errors.ts';
import type { Batch } from '../../event/batch.ts';
import type { EventCodec } from '../../event/codec.ts';
import type { Lsn } from '../../event/lsn.ts';
import type { Offset, SourceIdentity } from '../../event/offset.ts';
import type { Log } from '../../log.ts';
import type { CapturedTables } from '../../postgres/captured.ts';
import type { Located, StartOf, SubscribeOptions, Subscription, TableName, Transport } from '../transport.ts';
import { Capture } from './capture.ts';
import { Cluster, closedError } from './cluster.ts';
import { KafkaSubscription } from './consumer/subscription.ts';
import { LetterTopic } from './letter-topic.ts';
import { locate } from './locate.ts';
import { Absence, topicMissing } from './producer-errors.ts';
import { decodeProgress } from './progress.ts';
import { Tail } from './tail.ts';
import { checkTopicNames, progressTopic, schemaTopic } from './topic.ts';

/*
 * What lies in Kafka (records: event-writer.ts, headers: header.ts):
 *   <prefix>.<schema>.<table>      the changes of one table, Debezium-style
 *   <prefix>.message               logical messages
 *   <prefix>.__waltide_schema      descriptions of tables, by id; written before the first record that refers to one
 *   <prefix>.__waltide_progress    up to which LSN everything is below which offsets, and of which source
 *   <prefix>.dead-letter           records that were too large, and changes that sinks refused
 *
 *   <prefix>.transaction           where source transactions begin and end (transport.transactions)
 *
 * For our own sinks, exactly once rests on positions, not on Kafka's transactions (commit-loop.ts): the log may
 * hold a change twice (a capture that
 * crashed publishes again what the slot had not acknowledged), a reader passes over what is not after its position.
 */

/** What was published is given this long to become durable when the transport closes. */
const CLOSE_MS = 3_000;
const POLL_MS = 500;

export interface KafkaDeps {
  readonly log: Log;
  /** Makes the codec of a topic prefix and source database; called once per capture and per subscription. */
  readonly codec: (source: { readonly name: string; readonly database: string }) => EventCodec;
  /** Where records that are too large are kept, beside the topic. */
  readonly letters?: Letters;
}

/** A transport over Kafka 3.0 or newer. Connects when first used. Throws CONFIG_INVALID on unreadable PEM files. */
export function createKafkaTransport(config: KafkaConfig, deps: KafkaDeps): Transport {
  return new KafkaTransport(config, deps);
}

class KafkaTransport implements Transport {
  readonly #config: KafkaConfig;
  readonly #deps: KafkaDeps;
  readonly #cluster: Cluster;
  readonly #subscriptions = new Set<KafkaSubscription>();
  #capture: Capture | null = null;
  #closing: Promise<void> | null = null;
  readonly #letterTopic: LetterTopic;

  constructor(config: KafkaConfig, deps: KafkaDeps) {
    this.#config = config;
    this.#deps = deps;
    this.#cluster = new Cluster(config, deps.log);
    this.#letterTopic = new LetterTopic(this.#cluster);
  }

  async openCapture(identity: SourceIdentity, confirmed: Lsn | null, captured?: CapturedTables): Promise<void> {
    const capture = new Capture(
      this.#cluster,
      this.#codec(identity.database),
      identity.slot,
      captured ?? null,
      this.#deps.letters ?? null,
    );
    await this.#cluster.connect();
    await capture.open(identity, confirmed);
    this.#capture = capture;
  }

  putLetter(text: string): Promise<void> {
    return this.#letterTopic.put(text);
  }

  refusal(table: TableName, beside: Iterable<TableName>): string | null {
    try {
      checkTopicNames(this.#cluster.config.topicPrefix, [...beside, table]);
      return null;
    } catch (error) {
      if (error instanceof WaltideError) return `${error.message}. ${error.help}`;
      throw error;
    }
  }

  publish(batch: Batch): Promise<void> {
    if (this.#capture) return this.#capture.publish(batch);
    return Promise.reject(
      new WaltideError('INTERNAL', 'publish before openCapture', 'This is a fault in Waltide; please report it.'),
    );
  }

  get bytesInFlight(): number {
    return this.#capture?.bytesInFlight ?? 0;
  }

  get unreachable(): boolean {
    return this.#cluster.unreachable;
  }

  async identity(signal: AbortSignal): Promise<SourceIdentity> {
    await this.#cluster.connect();
    const tail = new Tail(this.#cluster, progressTopic(this.#config.topicPrefix));
    const absence = new Absence();
    let told = false;
    try {
      for (;;) {
        signal.throwIfAborted();
        const last = await tail.readLast();
        const progress = last && decodeProgress(last.value);
        if (progress) return progress.identity;
        // A capture makes both topics at once, before it writes anything.
        const topics = await this.#cluster.metadata([tail.topic, schemaTopic(this.#config.topicPrefix)]);
        if (absence.isFinal(!topics.has(tail.topic) && topics.size > 0))
          throw topicMissing(tail.topic, 'does not exist any more');
        if (!told) this.#deps.log.info(`waiting for a capture to publish under "${this.#config.topicPrefix}"`);
        told = true;
        await sleep(POLL_MS, undefined, { signal }).catch(() => {});
      }
    } finally {
      await tail.close();
    }
  }

  async locate(tables: readonly TableName[] | null, from: StartOf, saved: readonly Offset[]): Promise<Located> {
    await this.#cluster.connect();
    return locate(this.#cluster, tables, from, saved);
  }

  async subscribe(sink: string, from: readonly Offset[], options: SubscribeOptions = {}): Promise<Subscription> {
    await this.#cluster.connect();
    const subscriber = { name: sink, instance: options.instance ?? null, consistency: options.consistency ?? 'table' };
    const subscription = new KafkaSubscription(this.#cluster, subscriber, from, (database) => this.#codec(database));
    this.#subscriptions.add(subscription);
    try {
      await subscription.open();
      return subscription;
    } catch (error) {
      await subscription.close();
      throw error;
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#letterTopic.close(closedError());
    await Promise.all([this.#capture?.close(CLOSE_MS), ...[...this.#subscriptions].map((item) => item.close())]);
    await this.#cluster.close();
  }

  #codec(database: string): EventCodec {
    return this.#deps.codec({ name: this.#config.topicPrefix, database });
  }
}
