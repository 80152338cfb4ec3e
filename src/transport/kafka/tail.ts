import { messageOf, WaltideError } from '../../errors.ts';
import { type Cluster, EARLIEST, LATEST, partitionKey, type TopicPartition } from './cluster.ts';
import type { Connections } from './connections.ts';
import { KafkaError, kafkaErrorName } from './error-code.ts';
import { fetchRecords } from './fetch.ts';
import { type FetchedBatch, RecordCursor, readBatches } from './record-reader.ts';

const FETCH_BYTES_MAX = 4 * 1024 * 1024;
const RETRY_PAUSE_MS = 200;

export interface TailRecord {
  readonly key: string;
  readonly value: Buffer;
}

/** Reads one partition from some offset on, committed records only. Records without a value are passed over. */
export class Tail implements TopicPartition {
  readonly #cluster: Cluster;
  readonly #lane: Connections;
  readonly topic: string;
  readonly partition: number;
  readonly #bytesMax: number;
  /** The offset to read next. */
  next = 0n;
  #leader = -1;
  #missing = false;

  constructor(cluster: Cluster, topic: string, partition = 0, bytesMax = FETCH_BYTES_MAX) {
    this.#cluster = cluster;
    this.#lane = cluster.lane();
    this.topic = topic;
    this.partition = partition;
    this.#bytesMax = bytesMax;
  }

  /** True where the last `poll` found no such topic. */
  get missing(): boolean {
    return this.#missing;
  }

  /** Where the log starts, and where committed records end as of now; null where the topic does not exist. */
  async range(): Promise<{ start: bigint; end: bigint } | null> {
    if (!(await this.#cluster.metadata([this.topic])).has(this.topic)) return null;
    const key = partitionKey(this.topic, this.partition);
    const start = (await this.#cluster.listOffsets([this], EARLIEST)).get(key)!;
    const end = (await this.#cluster.listOffsets([this], LATEST, 1)).get(key)!;
    return { start, end };
  }

  /** What is in the log from `next` on, up to its end as of now. Empty where the topic does not exist. */
  async readToEnd(): Promise<TailRecord[]> {
    const records: TailRecord[] = [];
    const range = await this.range();
    if (!range) return records;
    if (this.next < range.start) this.next = range.start;
    while (this.next < range.end) records.push(...(await this.poll(RETRY_PAUSE_MS)));
    return records;
  }

  /** The last record, or null in an empty topic or none; reading goes on behind it. */
  async readLast(): Promise<TailRecord | null> {
    const range = await this.range();
    if (!range) return null;
    const { start, end } = range;
    // Usually where the log ends, or before the marker of a Kafka transaction; further back past aborted ones.
    for (let back = 1n; ; back *= 4n) {
      const whole = end - back <= start;
      this.next = whole ? start : end - back;
      const last = (await this.readToEnd()).at(-1);
      if (last || whole) return last ?? null;
    }
  }

  /** Waits up to `waitMsMax` for something new; empty where there is nothing, the topic is missing or a broker is down. */
  async poll(waitMsMax: number): Promise<TailRecord[]> {
    return this.#records(await this.pollBatches(waitMsMax));
  }

  /** As `poll`, undecoded; the first one may begin before `next`, which stays: the caller moves it. */
  async pollBatches(waitMsMax: number): Promise<FetchedBatch[]> {
    try {
      const broker = this.#cluster.broker(this.#leader) ?? (await this.#findLeader());
      if (!broker) {
        await this.#cluster.sleep(RETRY_PAUSE_MS);
        return [];
      }
      const connection = await this.#lane.get(broker);
      const { topic, partition, next: offset } = this;
      const position = { topic, partition, offset, bytesMax: this.#bytesMax };
      const [fetched] = await fetchRecords(connection, [position], waitMsMax, this.#bytesMax);
      if (!fetched) return [];
      if (fetched.errorCode === KafkaError.OFFSET_OUT_OF_RANGE)
        this.next = fetched.logStart < 0n ? 0n : fetched.logStart;
      else if (fetched.errorCode !== 0) throw new Error(kafkaErrorName(fetched.errorCode));
      return readBatches(fetched.records, fetched.aborted);
    } catch (error) {
      this.#leader = -1;
      if (error instanceof WaltideError) throw error;
      this.#cluster.log.debug({ err: messageOf(error), topic: this.topic }, 'Kafka: reading failed, trying again');
      await this.#cluster.sleep(RETRY_PAUSE_MS);
      return [];
    }
  }

  close(): Promise<void> {
    return this.#cluster.dropLane(this.#lane);
  }

  async #findLeader() {
    const info = (await this.#cluster.metadata([this.topic])).get(this.topic);
    this.#missing = info === undefined;
    this.#leader = info?.leaders[this.partition] ?? -1;
    return this.#cluster.broker(this.#leader);
  }

  #records(batches: readonly FetchedBatch[]): TailRecord[] {
    const records: TailRecord[] = [];
    const cursor = new RecordCursor();
    for (const batch of batches) {
      cursor.open(batch);
      while (cursor.next()) {
        if (cursor.offset < this.next || cursor.valueEnd < 0) continue;
        const key = cursor.keyEnd < 0 ? '' : cursor.bytes.toString('utf8', cursor.keyAt, cursor.keyEnd);
        // A copy: a slice would keep the whole response alive.
        records.push({ key, value: Buffer.from(cursor.bytes.subarray(cursor.valueAt, cursor.valueEnd)) });
      }
      if (batch.nextOffset > this.next) this.next = batch.nextOffset;
    }
    return records;
  }
}
