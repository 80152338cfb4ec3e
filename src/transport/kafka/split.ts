import type { SealedBatch } from './partition-log.ts';
import { BatchEncoder } from './record-batch.ts';
import { RecordCursor, readBatches } from './record-reader.ts';

/** Two batches with the records of one of at least two. Tickets wait for both: either may end as a letter, which takes its time. */
export function splitBatch(batch: SealedBatch): SealedBatch[] {
  const [fetched] = readBatches(batch.bytes.subarray(0, batch.length));
  const cursor = new RecordCursor();
  cursor.open(fetched!);
  const middle = batch.count >> 1;
  const first = copyRecords(cursor, middle, batch);
  const second = copyRecords(cursor, batch.count - middle, batch);
  const { tickets } = batch;
  for (const ticket of tickets) ticket.add();
  return [
    { ...first, tickets },
    { ...second, tickets },
  ];
}

function copyRecords(cursor: RecordCursor, count: number, from: SealedBatch): SealedBatch {
  const encoder = new BatchEncoder();
  const { out } = encoder;
  for (let i = 0; i < count && cursor.next(); i++) {
    const { bytes } = cursor;
    encoder.begin(bytes, cursor.keyAt, cursor.keyEnd);
    if (cursor.valueEnd < 0) encoder.nullValue();
    else {
      encoder.beginValue();
      out.push(bytes.subarray(cursor.valueAt, cursor.valueEnd));
      encoder.endValue();
    }
    encoder.headers(cursor.headerCount);
    out.push(bytes.subarray(cursor.headersAt, cursor.recordEnd));
    encoder.end();
  }
  encoder.finish(Number(from.bytes.readBigInt64BE(27)));
  return {
    bytes: out.bytes,
    length: out.length,
    count,
    tickets: [],
    writer: null,
    transaction: from.transaction,
    sequence: -1,
    confirmed: false,
    end: 0n,
  };
}
