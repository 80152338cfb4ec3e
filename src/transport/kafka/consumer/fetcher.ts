import { messageOf, WaltideError } from '../../../errors.ts';
import { addressOf, backoffMs, type Cluster } from '../cluster.ts';
import type { Connections } from '../connections.ts';
import { isRetriable, KafkaError, kafkaErrorName } from '../error-code.ts';
import { type FetchedPartition, fetchRecords } from '../fetch.ts';
import { Absence } from '../producer-errors.ts';
import { readBatches } from '../record-reader.ts';
import type { PartitionReader } from './partition-reader.ts';
import { Wake } from './wake.ts';

/** A response's limit. One batch larger than this is sent nevertheless, so nothing can get stuck. */
const FETCH_BYTES_MAX = 4 * 1024 * 1024;
const PARTITION_BYTES_MAX = 2 * 1024 * 1024;
const LONG_POLL_MS = 500;
/** While a full partition waits for its turn, the others must not hold up the connection for long. */
const SHORT_POLL_MS = 5;

/** Fetches for all assigned partitions, one long poll per broker, while the memory budget allows. */
export class Fetcher {
  readonly #cluster: Cluster;
  readonly #lane: Connections;
  readonly #hasRoom: () => boolean;
  readonly #onRecords: () => void;
  readonly #onGone: (topic: string) => void;
  readonly #onFailure: (error: Error) => void;
  readonly #wake = new Wake();
  readonly #busyBrokers = new Set<number>();
  readonly #absences = new Map<string, Absence>();
  #readers: readonly PartitionReader[] = [];
  #closed = false;
  #failures = 0;
  #running: Promise<void> | null = null;

  /** `onGone`: a topic was deleted. It throws, or assigns what is left. */
  constructor(
    cluster: Cluster,
    hasRoom: () => boolean,
    onRecords: () => void,
    onGone: (topic: string) => void,
    onFailure: (error: Error) => void,
  ) {
    this.#cluster = cluster;
    this.#lane = cluster.lane();
    this.#hasRoom = hasRoom;
    this.#onRecords = onRecords;
    this.#onGone = onGone;
    this.#onFailure = onFailure;
  }

  /** Replaces what is fetched. Answers under way for readers that are no longer in the list are dropped by them. */
  assign(readers: readonly PartitionReader[]): void {
    this.#readers = readers;
    this.#running ??= this.#run().catch((error: Error) => {
      if (!this.#closed) this.#onFailure(error);
    });
    this.#wake.ring();
  }

  /** Something changed: room was freed, or a partition has been read empty. */
  poke(): void {
    this.#wake.ring();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#wake.ring();
    await this.#cluster.dropLane(this.#lane);
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#closed && !this.#cluster.closed) {
      if (this.#readers.some(({ leader }) => leader < 0)) await this.#findLeaders();
      this.#startPolls(this.#hasRoom());
      await this.#wake.wait(LONG_POLL_MS);
    }
  }

  #startPolls(room: boolean): void {
    const byBroker = new Map<number, PartitionReader[]>();
    const waiting = new Set<number>();
    for (const reader of this.#readers) {
      if (reader.leader < 0 || this.#busyBrokers.has(reader.leader) || !(room || reader.urgent)) continue;
      if (!reader.wantsMore) {
        waiting.add(reader.leader);
        continue;
      }
      const list = byBroker.get(reader.leader);
      if (list) list.push(reader);
      else byBroker.set(reader.leader, [reader]);
    }
    for (const [broker, list] of byBroker)
      void this.#poll(broker, list, waiting.has(broker) ? SHORT_POLL_MS : LONG_POLL_MS);
  }

  async #poll(brokerId: number, readers: PartitionReader[], waitMs: number): Promise<void> {
    this.#busyBrokers.add(brokerId);
    for (const reader of readers) reader.fetching = true;
    const broker = this.#cluster.broker(brokerId);
    try {
      if (!broker) throw new Error(`broker ${brokerId} is not in the cluster`);
      const connection = await this.#lane.get(broker);
      // Brokers cut responses in the order of the request: turn it, so that no partition starves.
      readers.push(...readers.splice(0, 1));
      const positions = readers.map(({ topic, partition, fetchNext }) => ({
        topic,
        partition,
        offset: fetchNext,
        bytesMax: PARTITION_BYTES_MAX,
      }));
      const fetched = await fetchRecords(connection, positions, waitMs, FETCH_BYTES_MAX);
      this.#failures = 0;
      const byKey = new Map(readers.map((reader) => [reader.key, reader]));
      for (const item of fetched) this.#take(byKey.get(`${item.topic}:${item.partition}`), item);
    } catch (error) {
      if (this.#closed) return;
      if (error instanceof WaltideError) this.#onFailure(error);
      else await this.#troubled(broker ? addressOf(broker) : String(brokerId), readers, error);
    } finally {
      this.#busyBrokers.delete(brokerId);
      for (const reader of readers) reader.fetching = false;
      this.#wake.ring();
    }
  }

  async #troubled(broker: string, readers: readonly PartitionReader[], error: unknown): Promise<void> {
    if (this.#failures++ === 0)
      this.#cluster.log.warn({ err: messageOf(error), broker }, 'Kafka: reading failed, trying again');
    for (const reader of readers) reader.leader = -1;
    await this.#cluster.sleep(backoffMs(this.#failures - 1)).catch(() => {});
  }

  #take(reader: PartitionReader | undefined, item: FetchedPartition): void {
    if (!reader || !this.#readers.includes(reader)) return;
    const { errorCode, logStart } = item;
    if (errorCode === KafkaError.OFFSET_OUT_OF_RANGE)
      throw outOfRange(reader.key, reader.fetchNext, logStart, item.highWatermark);
    if (errorCode !== 0) {
      if (!isRetriable(errorCode))
        throw new WaltideError(
          'TRANSPORT',
          `Reading ${reader.key} failed: ${kafkaErrorName(errorCode)}`,
          'Grant the user Read on the topics of this prefix.',
        );
      reader.leader = -1;
      return;
    }
    this.#absences.delete(reader.topic);
    if (item.records.length === 0) return;
    const batches = readBatches(item.records, item.aborted);
    reader.accept(batches);
    if (batches.length > 0) this.#onRecords();
  }

  async #findLeaders(): Promise<void> {
    const names = [...new Set(this.#readers.filter(({ leader }) => leader < 0).map(({ topic }) => topic))];
    const topics = await this.#cluster.metadata(names);
    for (const name of names) {
      if (topics.has(name)) continue;
      const absence = this.#absences.get(name) ?? new Absence();
      this.#absences.set(name, absence);
      if (absence.isFinal(true)) this.#onGone(name);
    }
    for (const reader of this.#readers) {
      if (reader.leader < 0) reader.leader = topics.get(reader.topic)?.leaders[reader.partition] ?? -1;
    }
    if (this.#readers.some(({ leader }) => leader < 0)) await this.#cluster.sleep(100);
  }
}

/** Retention, or somebody, removed records that this sink has not seen; or the topic is not the one it was. */
export function outOfRange(key: string, wanted: bigint, start: bigint, end: bigint): WaltideError {
  if (wanted > end && end >= 0n) {
    return new WaltideError(
      'OFFSET_OUT_OF_RANGE',
      `${key} ends at ${end}, before the offset ${wanted} that the sink wants next: the topic was deleted and created again`,
      'Copy everything again with `waltide run --recopy`.',
    );
  }
  return new WaltideError(
    'OFFSET_OUT_OF_RANGE',
    `${key} ${start < 0n ? 'no longer holds' : `begins at ${start}, after`} the offset ${wanted} that the sink wants next: retention has removed changes it has not seen`,
    'Copy everything again with `waltide run --recopy` (a restored sink alone: `waltide restore --refill`), and give the topics a longer retention.ms than a sink can be away.',
  );
}
