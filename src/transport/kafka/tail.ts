import { messageOf, WaltideError } from '../../errors.ts';
import { type Cluster, EARLIEST, LATEST, partitionKey } from './cluster.ts';
import type { Connections } from './connections.ts';
import { KafkaError, kafkaErrorName } from './error-code.ts';
import { fetchRecords } from './fetch.ts';
import { RecordCursor, readBatches } from './record-reader.ts';

const FETCH_BYTES_MAX = 4 * 1024 * 1024;
const RETRY_PAUSE_MS = 200;

export interface TailRecord {
  readonly key: string;
  readonly value: Buffer;
}

/** Reads one of our own single-partition topics from some offset on. Records without a value are passed over. */
export class Tail {
  readonly #cluster: Cluster;
  readonly #lane: Connections;
  readonly topic: string;
  /** The offset to read next. */
  next = 0n;
  #leader = -1;

  constructor(cluster: Cluster, topic: string) {
    this.#cluster = cluster;
    this.#lane = cluster.lane();
    this.topic = topic;
  }

  /** What is in the log from `next` on, up to its end as of now. Empty where the topic does not exist. */
  async readToEnd(): Promise<TailRecord[]> {
    const records: TailRecord[] = [];
    if (!(await this.#cluster.metadata([this.topic])).has(this.topic)) return records;
    const at = { topic: this.topic, partition: 0 };
    const key = partitionKey(this.topic, 0);
    const start = (await this.#cluster.listOffsets([at], EARLIEST)).get(key)!;
    const end = (await this.#cluster.listOffsets([at], LATEST)).get(key)!;
    if (this.next < start) this.next = start;
    while (this.next < end) records.push(...(await this.poll(RETRY_PAUSE_MS)));
    return records;
  }

  /** The last record, or null in an empty topic or none; reading goes on behind it. */
  async readLast(): Promise<TailRecord | null> {
    if (!(await this.#cluster.metadata([this.topic])).has(this.topic)) return null;
    const end = (await this.#cluster.listOffsets([{ topic: this.topic, partition: 0 }], LATEST)).get(
      partitionKey(this.topic, 0),
    )!;
    // Compaction never touches the newest segment, so the last record is where the log ends, unless someone else wrote.
    this.next = end > 0n ? end - 1n : 0n;
    const last = (await this.readToEnd()).at(-1);
    if (last || end === 0n) return last ?? null;
    this.next = 0n;
    return (await this.readToEnd()).at(-1) ?? null;
  }

  /** Waits up to `waitMsMax` for something new; empty where there is nothing, the topic is missing or a broker is down. */
  async poll(waitMsMax: number): Promise<TailRecord[]> {
    try {
      const broker = this.#cluster.broker(this.#leader) ?? (await this.#findLeader());
      if (!broker) {
        await this.#cluster.sleep(RETRY_PAUSE_MS);
        return [];
      }
      const connection = await this.#lane.get(broker);
      const position = { topic: this.topic, partition: 0, offset: this.next, bytesMax: FETCH_BYTES_MAX };
      const [fetched] = await fetchRecords(connection, [position], waitMsMax, FETCH_BYTES_MAX);
      if (!fetched) return [];
      if (fetched.errorCode === KafkaError.OFFSET_OUT_OF_RANGE)
        this.next = fetched.logStart < 0n ? 0n : fetched.logStart;
      else if (fetched.errorCode !== 0) throw new Error(kafkaErrorName(fetched.errorCode));
      return this.#records(fetched.records);
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
    this.#leader = info?.leaders[0] ?? -1;
    return this.#cluster.broker(this.#leader);
  }

  #records(bytes: Buffer): TailRecord[] {
    const records: TailRecord[] = [];
    const cursor = new RecordCursor();
    for (const batch of readBatches(bytes)) {
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
