import type { Delivery } from '../event/batch.ts';
import type { ChangeEvent } from '../event/change-event.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Offset } from '../event/offset.ts';
import type { Subscription } from '../transport/transport.ts';

/** Where to stop: after what was committed at `lsn`, or by `time`. `lsn` of a time is one beyond which nothing is of before it. */
export interface UntilBound {
  readonly lsn: Lsn;
  readonly time: Date | null;
}

/**
 * A subscription that ends at a bound, between two source transactions. What lies beyond is read and thrown away, and
 * stays unacknowledged: it comes again at the next start.
 */
export class UntilSubscription implements Subscription {
  readonly #inner: Subscription;
  readonly #bound: UntilBound;
  /** The last offset handed on, by partition. */
  readonly #offsets = new Map<string, Offset>();
  /** Set by the first transaction beyond: everything after it is beyond as well. */
  #last: Lsn | null = null;
  /** Handed on and not yet durable; true for those that were cut. */
  readonly #underWay = new Map<Delivery, boolean>();
  #passed = false;

  constructor(inner: Subscription, bound: UntilBound, from: readonly Offset[]) {
    this.#inner = inner;
    this.#bound = bound;
    for (const offset of from) this.#offsets.set(offset.partition, offset);
  }

  /** Everything up to the bound is in the sink. */
  get reached(): boolean {
    return (this.#passed && this.#underWay.size === 0) || this.#inner.appliedLsn() > this.#bound.lsn;
  }

  set onAdvanced(advanced: () => void) {
    this.#inner.onAdvanced = advanced;
  }

  get startsEmpty(): boolean {
    return this.#inner.startsEmpty;
  }

  async receive(signal: AbortSignal): Promise<Delivery> {
    for (;;) {
      const delivery = await this.#inner.receive(signal);
      if (!this.#passed && !delivery.events.some((event) => this.#beyond(event))) {
        for (const offset of delivery.offsets) this.#offsets.set(offset.partition, offset);
        this.#underWay.set(delivery, false);
        return delivery;
      }
      const events = delivery.events.filter((event) => !this.#beyond(event));
      this.#passed = true;
      // Frees the budget, so that other sinks go on; never `applied`, which would let the slot go past what was cut.
      this.#inner.taken(delivery);
      if (events.length === 0) continue;
      const kept = {
        events,
        bytes: delivery.bytes,
        offsets: delivery.offsets.map((offset) => this.#before(offset)),
        complete: true,
      };
      this.#underWay.set(kept, true);
      return kept;
    }
  }

  #beyond(event: ChangeEvent): boolean {
    const { commitLsn, commitTimeUs } = event.transaction;
    if (this.#last !== null) return commitLsn > this.#last;
    const late = this.#bound.time !== null && commitTimeUs > BigInt(this.#bound.time.getTime()) * 1000n;
    if (!late && commitLsn <= this.#bound.lsn) return false;
    this.#last = late ? commitLsn - 1n : this.#bound.lsn;
    return true;
  }

  /** Past what is kept of the delivery and before what is not; a log is read again from where it was. */
  #before(offset: Offset): Offset {
    const end = { commitLsn: this.#last! + 1n, seq: 0 };
    if (offset.position.commitLsn < end.commitLsn) return offset;
    const next = offset.next === null ? null : (this.#offsets.get(offset.partition)?.next ?? 0n);
    return { partition: offset.partition, position: end, next };
  }

  taken(delivery: Delivery): void {
    if (this.#underWay.get(delivery) === false) this.#inner.taken(delivery);
  }

  applied(delivery: Delivery): void {
    if (this.#underWay.get(delivery) === false) this.#inner.applied(delivery);
    this.#underWay.delete(delivery);
  }

  appliedLsn(): Lsn {
    return this.#inner.appliedLsn();
  }

  publishedLsn(): Lsn {
    return this.#inner.publishedLsn();
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}
