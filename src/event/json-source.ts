import type { Transaction } from './change-event.ts';

export interface SourceOptions {
  /** The topic prefix: `source.name` of every event. */
  readonly name: string;
  readonly database: string;
  /** Waltide's own version. */
  readonly version: string;
}

/** The bytes that all events of a transaction share, in the order in which they are written. */
export interface TransactionForm {
  readonly transaction: Transaction;
  /** `,"source":{…,"sequence":"[\"<commit LSN>\",\"`, up to the change's LSN. */
  readonly sourceHead: Buffer;
  /** `\"]","ts_us":…,"ts_ns":…`, up to schema and table. */
  readonly sourceTimes: Buffer;
  /** `,"txId":…,"lsn":`, up to the change's LSN again. */
  readonly sourceTail: Buffer;
  /** `,"xmin":null},"transaction":{"id":"…","total_order":` */
  readonly order: Buffer;
  /** `,"xmin":null},"transaction":null`, for a snapshot and for messages outside transactions. */
  readonly noOrder: Buffer;
  /** `,"ts_ms":…,"ts_us":…,"ts_ns":…`: when the transaction was encoded, as Debezium's processing time. */
  readonly times: Buffer;
  /** Sum of the lengths of all fragments. */
  readonly bytes: number;
}

const NO_ORDER = Buffer.from(',"xmin":null},"transaction":null');

/** A number times 1,000 as digits; zero must not become `0000`. */
function thousand(value: bigint | number): string {
  return `${value}` === '0' ? '0' : `${value}000`;
}

/** Milliseconds from microseconds, rounded down also before 1970. */
function millis(micros: bigint): bigint {
  return (micros - (((micros % 1000n) + 1000n) % 1000n)) / 1000n;
}

/**
 * `source` as Debezium 3 has it. `sequence` is [commit LSN, LSN of the change]. Debezium puts the previous commit
 * first; ours is the own transaction's, so that it does not depend on where capture began and comes out the same
 * after a restart. Compared as a pair it orders events just as Debezium's does. `lsn` alone is no order.
 */
export function transactionForm(transaction: Transaction, options: SourceOptions): TransactionForm {
  const { xid, commitLsn, commitTimeUs, snapshot } = transaction;
  const { name, database, version } = options;
  const commit = snapshot ? 'null' : `\\"${commitLsn}\\"`;
  const now = Date.now();
  const sourceHead = Buffer.from(
    `,"source":{"version":${JSON.stringify(version)},"connector":"postgresql","name":${JSON.stringify(name)},` +
      `"ts_ms":${millis(commitTimeUs)},"snapshot":"${snapshot}","db":${JSON.stringify(database)},` +
      `"sequence":"[${commit},\\"`,
  );
  const sourceTimes = Buffer.from(`\\"]","ts_us":${commitTimeUs},"ts_ns":${thousand(commitTimeUs)}`);
  const sourceTail = Buffer.from(`,"txId":${xid === 0 ? 'null' : xid},"lsn":`);
  const order = Buffer.from(`,"xmin":null},"transaction":{"id":"${xid}:${commitLsn}","total_order":`);
  const times = Buffer.from(`,"ts_ms":${now},"ts_us":${thousand(now)},"ts_ns":${thousand(now)}000`);
  const bytes =
    sourceHead.length + sourceTimes.length + sourceTail.length + order.length + NO_ORDER.length + times.length;
  return { transaction, sourceHead, sourceTimes, sourceTail, order, noOrder: NO_ORDER, times, bytes };
}
