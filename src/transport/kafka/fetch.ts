import { type Connection, type Reader, Writer } from '@platformatic/kafka';

const FETCH = 1;
/** Version 12 names topics; it is the newest that every broker from 2.7 to 4.x speaks. */
const VERSION = 12;
/** Nothing beyond the last stable offset: what a Kafka transaction that is still open has written stays unseen. */
const READ_COMMITTED = 1;

export interface FetchPosition {
  readonly topic: string;
  readonly partition: number;
  readonly offset: bigint;
  readonly bytesMax: number;
}

export interface AbortedTransaction {
  readonly producerId: bigint;
  readonly firstOffset: bigint;
}

export interface FetchedPartition {
  readonly topic: string;
  readonly partition: number;
  readonly errorCode: number;
  readonly highWatermark: bigint;
  readonly logStart: bigint;
  /** Kafka transactions that ended in vain: their records are to be left out (`readBatches`). */
  readonly aborted: readonly AbortedTransaction[];
  /** Record batches as they lie in the log, to be split by `readBatches`. */
  readonly records: Buffer;
}

/** Long-polls one broker: answers at once where there is anything to read, else after `waitMsMax` with nothing. */
export function fetchRecords(
  connection: Connection,
  positions: readonly FetchPosition[],
  waitMsMax: number,
  bytesMax: number,
): Promise<FetchedPartition[]> {
  return new Promise((resolve, reject) => {
    connection.send(
      FETCH,
      VERSION,
      () => encodeRequest(positions, waitMsMax, bytesMax),
      (_correlation, _key, _version, reader) => parseResponse(reader),
      true,
      true,
      (error, response) => (error ? reject(error) : resolve(response as FetchedPartition[])),
    );
  });
}

/*
  Fetch Request (Version: 12) => replica_id max_wait_ms min_bytes max_bytes isolation_level session_id session_epoch
      [topics] [forgotten_topics_data] rack_id TAG_BUFFER
    topics => topic [partitions] TAG_BUFFER
      partitions => partition current_leader_epoch fetch_offset last_fetched_epoch log_start_offset
          partition_max_bytes TAG_BUFFER
*/
function encodeRequest(positions: readonly FetchPosition[], waitMsMax: number, bytesMax: number): Writer {
  const topics = new Map<string, FetchPosition[]>();
  for (const position of positions) {
    const list = topics.get(position.topic);
    if (list) list.push(position);
    else topics.set(position.topic, [position]);
  }
  return Writer.create()
    .appendInt32(-1)
    .appendInt32(waitMsMax)
    .appendInt32(1)
    .appendInt32(bytesMax)
    .appendInt8(READ_COMMITTED)
    .appendInt32(0)
    .appendInt32(-1)
    .appendArray([...topics], (w, [topic, list]) => {
      w.appendString(topic).appendArray(list, (w2, item) => {
        w2.appendInt32(item.partition)
          .appendInt32(-1)
          .appendInt64(item.offset)
          .appendInt32(-1)
          .appendInt64(-1n)
          .appendInt32(item.bytesMax);
      });
    })
    .appendArray([], () => {})
    .appendString('')
    .appendTaggedFields();
}

/*
  Fetch Response (Version: 12) => throttle_time_ms error_code session_id [responses] TAG_BUFFER
    responses => topic [partitions] TAG_BUFFER
      partitions => partition_index error_code high_watermark last_stable_offset log_start_offset
          [aborted_transactions] preferred_read_replica records TAG_BUFFER
*/
function parseResponse(reader: Reader): FetchedPartition[] {
  // One flat buffer: everything behind works with plain offsets.
  const parser = new Parser(reader.buffer.slice(reader.position));
  parser.at += 4;
  const failed = parser.int16();
  if (failed !== 0) throw new Error(`Fetch failed with code ${failed}`);
  parser.at += 4;
  const partitions: FetchedPartition[] = [];
  for (let topics = parser.compactLength(); topics > 0; topics--) {
    const topic = parser.compactBytes().toString();
    for (let count = parser.compactLength(); count > 0; count--) partitions.push(parsePartition(topic, parser));
    parser.skipTags();
  }
  return partitions;
}

function parsePartition(topic: string, parser: Parser): FetchedPartition {
  const partition = parser.int32();
  const errorCode = parser.int16();
  const highWatermark = parser.int64();
  parser.at += 8;
  const logStart = parser.int64();
  const aborted: AbortedTransaction[] = [];
  for (let count = parser.compactLength(); count > 0; count--) {
    aborted.push({ producerId: parser.int64(), firstOffset: parser.int64() });
    parser.skipTags();
  }
  parser.at += 4;
  const records = parser.compactBytes();
  parser.skipTags();
  return { topic, partition, errorCode, highWatermark, logStart, aborted, records };
}

class Parser {
  readonly bytes: Buffer;
  at = 0;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  int16(): number {
    this.at += 2;
    return this.bytes.readInt16BE(this.at - 2);
  }

  int32(): number {
    this.at += 4;
    return this.bytes.readInt32BE(this.at - 4);
  }

  int64(): bigint {
    this.at += 8;
    return this.bytes.readBigInt64BE(this.at - 8);
  }

  uvarint(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.bytes[this.at++]!;
      value |= (byte & 127) << shift;
      if (byte < 128) break;
    }
    return value >>> 0;
  }

  /** Compact lengths are stored plus one; zero (null) counts as empty. */
  compactLength(): number {
    return Math.max(0, this.uvarint() - 1);
  }

  compactBytes(): Buffer {
    const length = this.compactLength();
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  skipTags(): void {
    for (let tags = this.uvarint(); tags > 0; tags--) {
      this.uvarint();
      const size = this.uvarint();
      this.at += size;
    }
  }
}
