import type { Snapshot } from '../../event/change-event.ts';

/** Names of the record headers. A reader that knows none of them still has whole Debezium-style records. */
export const HEADER = {
  /** LSN of the transaction's commit record, as PostgreSQL prints it. */
  lsn: 'waltide.lsn',
  /** Number of the change in its transaction. (lsn, seq) is the total order of the slot. */
  seq: 'waltide.seq',
  /** Id of the table's description in `<prefix>.__waltide_schema`. */
  relation: 'waltide.relation',
  /**
   * `xid,commit time in µs since the Unix epoch,snapshot,replication origin or nothing`, where snapshot is 0 for
   * streamed changes and else `kind:id:sinks`, the names of its sinks divided by `;`, nothing for all.
   */
  transaction: 'waltide.txn',
  /** Indexes of columns whose value the WAL did not carry; absent where there are none. */
  unchanged: 'waltide.unchanged',
  /**
   * On the delete and the create that one change of a key became, where both are in one partition: a reader may
   * put them together again. "d" and "c".
   */
  keyChange: 'waltide.key-change',
} as const;

/** The snapshot field of the transaction header. Ids and names of sinks hold none of `,:;`. */
export function formatSnapshot(snapshot: Snapshot | null): string {
  return snapshot ? `${snapshot.kind}:${snapshot.id}:${snapshot.sinks?.join(';') ?? ''}` : '0';
}

/** Throws a RangeError on anything that `formatSnapshot` does not write. */
export function parseSnapshot(text: string): Snapshot | null {
  if (text === '0') return null;
  const [kind, id, sinks] = text.split(':');
  if ((kind !== 'initial' && kind !== 'incremental' && kind !== 'partial') || !id || sinks === undefined)
    throw new RangeError(`"${text}" is not a snapshot`);
  return { kind, id, sinks: sinks === '' ? null : sinks.split(';') };
}
