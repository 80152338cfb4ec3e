import { messageOf } from '../../errors.ts';
import { addressOf, backoffMs, type Cluster, closedError, LATEST, partitionKey } from './cluster.ts';
import type { Connections } from './connections.ts';
import { isRetriable, KafkaError, kafkaErrorName, NEW_PRODUCER } from './error-code.ts';
import { type PartitionLog, type SealedBatch, Ticket } from './partition-log.ts';
import { type Shipment, type ShipmentResult, sendProduce } from './produce.ts';
import { refused, topicMissing } from './producer-errors.ts';
import { ProducerTopics } from './producer-topics.ts';
import type { ProducerTransaction } from './producer-transaction.ts';
import { splitBatch } from './split.ts';
import type { ProducerNumber } from './transactions.ts';

/** Requests under way per broker, as in Kafka's own client. */
const REQUESTS_MAX = 5;
/** Batches of many partitions share a request up to this size. */
const REQUEST_BYTES_MAX = 4 * 1024 * 1024;

interface Sender {
  inFlight: number;
  failures: number;
  waitUntilMs: number;
}

/** What to do with a record that the broker refuses for its size: resolves = done without it; throws = stop. */
export type OnTooLarge = (log: PartitionLog, record: SealedBatch) => Promise<void>;

/**
 * An idempotent producer of batches that are already encoded. Per partition the order of `wrote` calls is the order
 * in the log, whatever fails on the way; it tries again until the transport is closed. What cannot be healed by
 * trying again (a deleted topic, missing rights) ends it for good: `failure` is set, and `onFailure` called once.
 */
export class Producer {
  readonly #cluster: Cluster;
  readonly #lane: Connections;
  readonly #onTooLarge: OnTooLarge;
  readonly #onFailure: (error: Error) => void;
  readonly topics: ProducerTopics;
  /** Logs with anything not yet durable. */
  readonly #busy = new Set<PartitionLog>();
  readonly #senders = new Map<number, Sender>();
  readonly #transaction: ProducerTransaction | null;
  #producer: ProducerNumber | null = null;
  #renewing = false;
  #numbering = false;
  #scheduled = false;
  #timer: NodeJS.Timeout | null = null;
  #inFlight = 0;
  failure: Error | null = null;

  constructor(
    cluster: Cluster,
    onTooLarge: OnTooLarge,
    onFailure: (error: Error) => void,
    transaction: ProducerTransaction | null,
  ) {
    this.#transaction = transaction;
    this.topics = new ProducerTopics(cluster, transaction?.clock);
    this.#cluster = cluster;
    this.#lane = cluster.lane();
    this.#onTooLarge = onTooLarge;
    this.#onFailure = onFailure;
  }

  /** With a producer number of one's own. To be called once, before anything is written. */
  open(number: ProducerNumber): void {
    this.#producer = number;
  }

  get number(): ProducerNumber {
    return this.#producer!;
  }

  /** A record of `ticket` was written to the open batch of `log`; `flush` sends it. */
  wrote(log: PartitionLog, ticket: Ticket): void {
    log.wrote(ticket);
    this.#busy.add(log);
  }

  /** Appends one small record, to the Kafka transaction given or the one being written, and resolves once it is durable. */
  append(log: PartitionLog, key: string, value: string, transaction?: number): Promise<void> {
    if (this.failure) return Promise.reject(this.failure);
    return new Promise((resolve) => {
      const ticket = new Ticket(resolve);
      const keyBytes = Buffer.from(key);
      log.seal();
      const batch = log.batch();
      batch.begin(keyBytes, 0, keyBytes.length);
      batch.beginValue();
      batch.out.push(Buffer.from(value));
      batch.endValue();
      batch.headers(0);
      batch.end();
      this.wrote(log, ticket);
      ticket.close();
      if (transaction !== undefined) log.seal(transaction);
      this.flush();
    });
  }

  /** Appends one small record to the Kafka transaction under way, after it was closed. */
  appendLast(log: PartitionLog, key: string, value: string): void {
    void this.append(log, key, value, this.#transaction!.clock.sending);
  }

  /** Records written from here on belong to the next Kafka transaction. */
  closeTransaction(): void {
    for (const log of this.#busy) log.seal();
    this.#transaction!.clock.writing++;
  }

  /** Resolves with true once all of the Kafka transaction under way is confirmed, with false once it failed. */
  settled(): Promise<boolean> {
    this.flush();
    return this.#transaction!.wait();
  }

  /** The Kafka transaction under way is committed: its tickets are settled, and the next one may be sent. */
  release(): void {
    this.#transaction!.release();
    this.flush();
  }

  /** The Kafka transaction under way is void: all of it is sent again under a new number. */
  restart(number: ProducerNumber): void {
    for (const log of this.#transaction!.restart()) this.#busy.add(log);
    this.#renewed(number);
  }

  /** Sends what was written, at the end of this turn of the event loop so that one request takes all of it. */
  flush(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#pump();
    });
  }

  /** Ends it: everything not yet durable stays undecided. */
  fail(error: Error): void {
    if (this.failure) return;
    this.failure = error;
    if (this.#timer) clearTimeout(this.#timer);
    this.#onFailure(error);
  }

  #pump(): void {
    if (this.failure) return;
    if (this.#cluster.closed || this.#renewing) {
      if (this.#cluster.closed) this.fail(closedError());
      else if (this.#inFlight === 0) this.#renew();
      return;
    }
    const transaction = this.#transaction;
    if (transaction?.waitedFor && !transaction.reserved && ![...this.#busy].some(({ pending }) => pending))
      transaction.tell(true);
    const now = performance.now();
    const requests = new Map<number, Shipment[][]>();
    for (const log of this.#busy) {
      if (log.empty) this.#busy.delete(log);
      else if (log.waitUntilMs > now) this.#wakeAt(log.waitUntilMs);
      else this.#collect(log, requests, now);
    }
    for (const [broker, list] of requests) {
      for (const shipments of list) if (shipments.length > 0) void this.#send(broker, shipments);
    }
    this.#join();
  }

  /** Before anything is sent to a partition, it must be part of the Kafka transaction. */
  #join(): void {
    const joining = this.#transaction?.join(this.#producer!);
    if (!joining) return;
    this.#inFlight++;
    joining
      .then((joined) => {
        if (!joined) this.#renewing = true;
      })
      .catch((error: Error) => this.fail(error))
      .finally(() => {
        this.#inFlight--;
        this.#pump();
      });
  }

  /** Puts as many batches of `log` as may go into the requests for its leader: one per partition in each. */
  #collect(log: PartitionLog, requests: Map<number, Shipment[][]>, now: number): void {
    const leader = this.topics.leader(log);
    if (leader < 0 || !this.#cluster.broker(leader)) {
      this.#refreshSoon();
      return;
    }
    const sender = this.#sender(leader);
    if (sender.waitUntilMs > now) {
      this.#wakeAt(sender.waitUntilMs);
      return;
    }
    if (this.#transaction && (!log.pending || !this.#transaction.admits(log))) return;
    let list = requests.get(leader);
    if (!list) {
      list = [];
      requests.set(leader, list);
    }
    for (let i = 0; sender.inFlight + i < REQUESTS_MAX; i++) {
      const batch = log.next();
      if (!batch) return;
      list[i] ??= [];
      const request = list[i]!;
      if (
        request.reduce((sum, shipment) => sum + shipment.batch.length, 0) + batch.length > REQUEST_BYTES_MAX &&
        request.length > 0
      )
        continue;
      log.take(batch, this.#producer!);
      request.push({ log, batch });
    }
  }

  #sender(broker: number): Sender {
    let sender = this.#senders.get(broker);
    if (!sender) {
      sender = { inFlight: 0, failures: 0, waitUntilMs: 0 };
      this.#senders.set(broker, sender);
    }
    return sender;
  }

  async #send(brokerId: number, shipments: Shipment[]): Promise<void> {
    const sender = this.#sender(brokerId);
    const broker = this.#cluster.broker(brokerId)!;
    const { requestTimeoutMs } = this.#cluster.config;
    sender.inFlight++;
    this.#inFlight++;
    try {
      const connection = await this.#lane.get(broker);
      let results: (ShipmentResult | undefined)[];
      try {
        results = await sendProduce(connection, shipments, requestTimeoutMs, this.#transaction?.id);
      } catch (error) {
        connection.socket?.destroy();
        throw error;
      }
      if (sender.failures > 0) this.#cluster.log.info({ broker: addressOf(broker) }, 'Kafka: broker answers again');
      sender.failures = 0;
      shipments.forEach((shipment, i) => {
        this.#answered(shipment, results[i]);
      });
    } catch (error) {
      for (const { log } of shipments) log.rewinding = true;
      if (sender.failures++ === 0) {
        this.#cluster.log.warn(
          { err: messageOf(error), broker: addressOf(broker) },
          'Kafka: sending failed, trying again',
        );
      }
      sender.waitUntilMs = performance.now() + backoffMs(sender.failures - 1);
      this.#refreshSoon();
    } finally {
      sender.inFlight--;
      this.#inFlight--;
      for (const { log } of shipments) this.#returned(log);
      this.#pump();
    }
  }

  #returned(log: PartitionLog): void {
    log.inFlight--;
    if (!log.rewindIfDrained() || !log.tooLarge) return;
    log.tooLarge = false;
    this.#shrink(log);
  }

  #answered({ log, batch }: Shipment, result: ShipmentResult | undefined): void {
    const code = result?.errorCode ?? KafkaError.REQUEST_TIMED_OUT;
    if (code === 0 || code === KafkaError.DUPLICATE_SEQUENCE_NUMBER) {
      const baseOffset = code === 0 ? result!.baseOffset : -1n;
      if (baseOffset >= 0n) this.#confirmed(log, batch, baseOffset);
      else void this.#locate(log, batch);
      return;
    }
    // Behind a failed batch, the next ones are out of order by design.
    if (log.rewinding || (NEW_PRODUCER.has(code) && log.head !== batch)) {
      log.rewinding = true;
      return;
    }
    log.rewinding = true;
    if (code === KafkaError.MESSAGE_TOO_LARGE || code === KafkaError.RECORD_LIST_TOO_LARGE) {
      log.tooLarge = true;
    } else if (NEW_PRODUCER.has(code)) {
      this.#cluster.log.warn(
        { topic: log.topic, code: kafkaErrorName(code) },
        'Kafka: the broker forgot this producer, taking a new number',
      );
      this.#renewing = true;
    } else if (isRetriable(code)) {
      this.#cluster.log.warn(
        { topic: log.topic, partition: log.partition, code: kafkaErrorName(code) },
        'Kafka: batch refused for now, trying again',
      );
      log.waitUntilMs = performance.now() + 100;
      this.#refreshSoon();
    } else this.fail(refused(log, code, result?.message ?? null));
  }

  #confirmed(log: PartitionLog, batch: SealedBatch, baseOffset: bigint): void {
    // Log ends never go back, except in a topic that is not the one we wrote to before.
    if (!batch.confirmed && log.head === batch && baseOffset < log.floor) {
      this.fail(topicMissing(log.topic, 'was deleted and created again'));
      return;
    }
    this.topics.present(log.topic);
    const end = baseOffset + BigInt(batch.count);
    if (log.head === batch) log.floor = end;
    this.#confirm(log, batch, end);
  }

  #confirm(log: PartitionLog, batch: SealedBatch, end: bigint): void {
    log.confirm(batch, end);
    this.#transaction?.hold(log);
  }

  /** A repetition of something so old that the broker no longer knows where it is: at the end, or before. */
  async #locate(log: PartitionLog, batch: SealedBatch): Promise<void> {
    log.inFlight++;
    try {
      const offsets = await this.#cluster.listOffsets([log], LATEST);
      this.#confirm(log, batch, offsets.get(partitionKey(log.topic, log.partition))!);
    } catch (error) {
      this.fail(error as Error);
    } finally {
      this.#returned(log);
      this.flush();
    }
  }

  /** Halves a batch that the broker found too large; a single record is what `onTooLarge` decides about. */
  #shrink(log: PartitionLog): void {
    const { head } = log;
    if (!head) return;
    try {
      if (head.count > 1) {
        log.replaceHead(splitBatch(head));
        return;
      }
      this.#onTooLarge(log, head).then(
        () => {
          for (const ticket of head.tickets) ticket.settle();
        },
        (error: Error) => this.fail(error),
      );
      log.replaceHead([]);
    } catch (error) {
      this.fail(error as Error);
    }
  }

  #renewed(number: ProducerNumber): void {
    this.#producer = number;
    for (const log of this.topics.all()) log.restartSequence();
    this.#renewing = false;
    this.flush();
  }

  #renew(): void {
    // Within a Kafka transaction, more has to begin again than a number: whoever commits it is told.
    if (this.#transaction) this.#transaction.tell(false);
    if (this.#transaction || this.#numbering) return;
    this.#numbering = true;
    this.#cluster
      .producerId()
      .then((number) => this.#renewed(number))
      .catch((error: Error) => this.fail(error))
      .finally(() => {
        this.#numbering = false;
        this.flush();
      });
  }

  #refreshSoon(): void {
    const topics = [...new Set([...this.#busy].map(({ topic }) => topic))];
    this.topics.refresh(
      topics,
      (pauseMs) => this.#wakeAt(performance.now() + pauseMs),
      (error) => this.fail(error),
    );
  }

  #wakeAt(timeMs: number): void {
    if (this.#timer) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = null;
        this.#pump();
      },
      Math.max(1, timeMs - performance.now()),
    );
  }
}
