import { formatLsn, type Lsn, parseLsn } from './lsn.ts';

/**
 * The total order of a slot's events: the LSN of the transaction's commit record, then the number of the
 * change inside its transaction (from 1). The LSN of a single change is NOT monotonic across transactions.
 *
 * `seq` 0 means "before any change committed at `commitLsn`": `(commit end LSN, 0)` is the position after a
 * whole transaction, and also after a keepalive or a non-transactional message that ended there. No later
 * transaction can have a commit record that begins before that LSN, so the pair stays a total order.
 */
export interface Position {
  readonly commitLsn: Lsn;
  readonly seq: number;
}

export const START: Position = { commitLsn: 0n, seq: 0 };

/** Negative, zero or positive, as for Array.prototype.sort. */
export function comparePosition(a: Position, b: Position): number {
  if (a.commitLsn !== b.commitLsn) return a.commitLsn < b.commitLsn ? -1 : 1;
  return a.seq - b.seq;
}

export function formatPosition(position: Position): string {
  return `${formatLsn(position.commitLsn)}#${position.seq}`;
}

/** Reads what `formatPosition` wrote. Throws a RangeError on anything else. */
export function parsePosition(text: string): Position {
  const [lsn, seq] = text.split('#');
  if (!seq || !/^\d+$/.test(seq)) throw new RangeError(`"${text}" is not a position`);
  return { commitLsn: parseLsn(lsn!), seq: Number(seq) };
}
