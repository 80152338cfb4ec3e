/** Names of the record headers. A reader that knows none of them still has whole Debezium-style records. */
export const HEADER = {
  /** LSN of the transaction's commit record, as PostgreSQL prints it. */
  lsn: 'waltide.lsn',
  /** Number of the change in its transaction. (lsn, seq) is the total order of the slot. */
  seq: 'waltide.seq',
  /** Id of the table's description in `<prefix>.__waltide_schema`. */
  relation: 'waltide.relation',
  /** `xid,commit time in µs since the Unix epoch,1 for a snapshot else 0,replication origin or nothing`. */
  transaction: 'waltide.txn',
  /** Indexes of columns whose value the WAL did not carry; absent where there are none. */
  unchanged: 'waltide.unchanged',
  /**
   * On the delete and the create that one change of a key became, where both are in one partition: a reader may
   * put them together again. "d" and "c".
   */
  keyChange: 'waltide.key-change',
} as const;
