import type { Lsn } from '../event/lsn.ts';

interface Held {
  readonly prepareLsn: Lsn;
  /** End of its COMMIT PREPARED; null while it is prepared only. */
  commitEndLsn: Lsn | null;
}

/**
 * Holds the acknowledgement below every prepared transaction that is not durable downstream: PostgreSQL sends the
 * changes of one at PREPARE TRANSACTION, and never again once the slot was acknowledged beyond that. Outlives the
 * connections of a slot. Pure.
 */
export class PreparedHold {
  readonly #held = new Map<number, Held>();

  get size(): number {
    return this.#held.size;
  }

  /** `prepareLsn`: where its PREPARE TRANSACTION record begins. */
  prepared(xid: number, prepareLsn: Lsn): void {
    this.#held.set(xid, { prepareLsn, commitEndLsn: null });
  }

  committed(xid: number, commitEndLsn: Lsn): void {
    const held = this.#held.get(xid);
    if (held) held.commitEndLsn = commitEndLsn;
  }

  rolledBack(xid: number): void {
    this.#held.delete(xid);
  }

  /** How far the slot may be acknowledged when everything before `durable` is durable downstream. */
  bound(durable: Lsn): Lsn {
    if (this.#held.size === 0) return durable;
    let bound = durable;
    for (const [xid, { prepareLsn, commitEndLsn }] of this.#held) {
      if (commitEndLsn !== null && commitEndLsn <= durable) this.#held.delete(xid);
      else if (prepareLsn < bound) bound = prepareLsn;
    }
    return bound;
  }
}
