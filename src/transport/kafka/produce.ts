import { type Connection, produceV9, Writer } from '@platformatic/kafka';
import { responseOf } from './connections.ts';
import type { PartitionLog, SealedBatch } from './partition-log.ts';

const PRODUCE = 0;
/** The newest version that every broker from 2.4 to 4.x speaks. */
const VERSION = 9;
const ACKS_ALL = -1;
const NO_TAGS = Buffer.from([0]);

export interface Shipment {
  readonly log: PartitionLog;
  readonly batch: SealedBatch;
}

export interface ShipmentResult {
  readonly errorCode: number;
  /** -1 where the broker does not know it any more. */
  readonly baseOffset: bigint;
  readonly message: string | null;
}

/**
 * Sends batches as they lie in their buffers, at most one per partition, and resolves with one result for each in
 * the same order; undefined where the response did not mention it. Rejects where the outcome is unknown.
 */
export function sendProduce(
  connection: Connection,
  shipments: readonly Shipment[],
  timeoutMs: number,
  transactionalId: string | null = null,
): Promise<(ShipmentResult | undefined)[]> {
  const topics = groupByTopic(shipments);
  return new Promise((resolve, reject) => {
    connection.send<produceV9.ProduceResponse>(
      PRODUCE,
      VERSION,
      () => encodeRequest(topics, timeoutMs, transactionalId),
      produceV9.parseResponse,
      true,
      true,
      (error, response) => {
        const answer = error ? responseOf<produceV9.ProduceResponse>(error) : response;
        if (answer) resolve(pick(shipments, answer));
        else reject(error ?? new Error('no response'));
      },
    );
  });
}

/*
  Produce Request (Version: 9) => transactional_id acks timeout_ms [topic_data] TAG_BUFFER
    topic_data => name [partition_data] TAG_BUFFER
      partition_data => index records TAG_BUFFER
        records => COMPACT_RECORDS
*/
function encodeRequest(topics: Map<string, Shipment[]>, timeoutMs: number, transactionalId: string | null): Writer {
  const writer = Writer.create().appendString(transactionalId).appendInt16(ACKS_ALL).appendInt32(timeoutMs);
  writer.appendUnsignedVarInt(topics.size + 1);
  for (const [topic, shipments] of topics) {
    writer.appendString(topic).appendUnsignedVarInt(shipments.length + 1);
    for (const { log, batch } of shipments) {
      writer
        .appendInt32(log.partition)
        .appendUnsignedVarInt(batch.length + 1)
        .append(batch.bytes.subarray(0, batch.length))
        .append(NO_TAGS);
    }
    writer.append(NO_TAGS);
  }
  return writer.append(NO_TAGS);
}

function groupByTopic(shipments: readonly Shipment[]): Map<string, Shipment[]> {
  const topics = new Map<string, Shipment[]>();
  for (const shipment of shipments) {
    const list = topics.get(shipment.log.topic);
    if (list) list.push(shipment);
    else topics.set(shipment.log.topic, [shipment]);
  }
  return topics;
}

function pick(shipments: readonly Shipment[], response: produceV9.ProduceResponse): (ShipmentResult | undefined)[] {
  const results = new Map<string, ShipmentResult>();
  for (const { name, partitionResponses } of response.responses) {
    for (const { index, errorCode, baseOffset, errorMessage, recordErrors } of partitionResponses) {
      results.set(`${name}:${index}`, {
        errorCode,
        baseOffset,
        message: errorMessage ?? recordErrors[0]?.batchIndexErrorMessage ?? null,
      });
    }
  }
  return shipments.map(({ log }) => results.get(`${log.topic}:${log.partition}`));
}
