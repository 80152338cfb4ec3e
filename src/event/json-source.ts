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
  /** `\"]","ts_us":…`, up to schema and table. */
  readonly sourceTimes: Buffer;
  /** `,"txId":…,"lsn":`, up to the change's LSN again. */
  readonly sourceTail: Buffer;
  /** `},"transaction":{"id":"…","total_order":` */
  readonly order: Buffer;
  /** `},"transaction":null`, for a snapshot and for messages outside transactions. */
  readonly noOrder: Buffer;
  /** `,"ts_ms":…`: when the transaction was encoded, as Debezium's processing time. */
  readonly times: Buffer;
  /** Sum of the lengths of all fragments. */
  readonly bytes: number;
}

const NO_ORDER = Buffer.from('},"transaction":null');

/** Milliseconds from microseconds, rounded down also before 1970. */
function millis(micros: bigint): bigint {
  return (micros - (((micros % 1000n) + 1000n) % 1000n)) / 1000n;
}

/**
 * `source` as Debezium 3 has it. `sequence` is [commit LSN, LSN of the change]. Debezium puts the previous commit
 * first; ours is the own transaction's, so that it does not depend on where capture began and comes out the same
 * after a restart. Compared as a pair it orders events just as Debezium's does. `lsn` alone is no order.
 * Left out are the optional `xmin`, which is always null, and nanoseconds, which PostgreSQL does not have and a JSON
 * number could not hold: a hundred bytes of every record.
 */
export function transactionForm(transaction: Transaction, options: SourceOptions): TransactionForm {
  const { xid, commitLsn, commitTimeUs, snapshot } = transaction;
  const { name, database, version } = options;
  // Debezium's words: "true" for the first copy.
  const kind = snapshot === null ? 'false' : snapshot.kind === 'initial' ? 'true' : 'incremental';
  const commit = snapshot ? 'null' : `\\"${commitLsn}\\"`;
  const now = Date.now();
  const sourceHead = Buffer.from(
    `,"source":{"version":${JSON.stringify(version)},"connector":"postgresql","name":${JSON.stringify(name)},` +
      `"ts_ms":${millis(commitTimeUs)},"snapshot":"${kind}","db":${JSON.stringify(database)},` +
      `"sequence":"[${commit},\\"`,
  );
  const sourceTimes = Buffer.from(`\\"]","ts_us":${commitTimeUs}`);
  const sourceTail = Buffer.from(`,"txId":${xid === 0 ? 'null' : xid},"lsn":`);
  const order = Buffer.from(`},"transaction":{"id":"${xid}:${commitLsn}","total_order":`);
  const times = Buffer.from(`,"ts_ms":${now}`);
  const bytes =
    sourceHead.length + sourceTimes.length + sourceTail.length + order.length + NO_ORDER.length + times.length;
  return { transaction, sourceHead, sourceTimes, sourceTail, order, noOrder: NO_ORDER, times, bytes };
}
