import type { Delivery } from '../event/batch.ts';
import type { ChangeEvent } from '../event/change-event.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Offset } from '../event/offset.ts';
import { comparePosition } from '../event/position.ts';
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

  constructor(inner: Subscription, bound: UntilBound, from: readonly Offset[]) {
    this.#inner = inner;
    this.#bound = bound;
    for (const offset of from) this.#offsets.set(offset.partition, offset);
  }

  /** Everything up to the bound is in the sink: no partition, nor the stream, can bring more of it. */
  get reached(): boolean {
    return this.#underWay.size === 0 && this.#inner.receivedLsn() > (this.#last ?? this.#bound.lsn);
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
      const events = delivery.events.filter((event) => !this.#beyond(event));
      const offsets = delivery.offsets.map((offset) => this.#before(offset));
      const whole = events.length === delivery.events.length && offsets.every((one, i) => one === delivery.offsets[i]);
      // Frees the budget, so that other sinks go on; never `applied`, which would let the slot go past what was cut.
      if (!whole) this.#inner.taken(delivery);
      if (!whole && events.length === 0) continue;
      const kept = whole ? delivery : { events, bytes: delivery.bytes, offsets, complete: true };
      for (const offset of offsets) this.#offsets.set(offset.partition, offset);
      this.#underWay.set(kept, !whole);
      return kept;
    }
  }

  /** Commit times follow the order of commits nearly, so a later event may show that an earlier one is beyond. */
  #beyond(event: ChangeEvent): boolean {
    const { commitLsn, commitTimeUs } = event.transaction;
    const late = this.#bound.time !== null && commitTimeUs > BigInt(this.#bound.time.getTime()) * 1000n;
    const last = this.#last ?? this.#bound.lsn;
    if (!late && commitLsn <= last) return false;
    this.#last = late && commitLsn <= last ? commitLsn - 1n : last;
    return true;
  }

  /** Past what is kept of the delivery and before what is not; a log is read again from where it was. */
  #before(offset: Offset): Offset {
    if (this.#last === null) return offset;
    const end = { commitLsn: this.#last + 1n, seq: 0 };
    if (offset.position.commitLsn < end.commitLsn) return offset;
    const before = this.#offsets.get(offset.partition);
    const position = before && comparePosition(before.position, end) > 0 ? before.position : end;
    return { partition: offset.partition, position, next: offset.next === null ? null : (before?.next ?? 0n) };
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

  receivedLsn(): Lsn {
    return this.#inner.receivedLsn();
  }

  publishedLsn(): Lsn {
    return this.#inner.publishedLsn();
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}
