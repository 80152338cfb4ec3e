import type { Batch, Delivery } from '../event/batch.ts';
import { isAfter } from '../event/change-event.ts';
import { weightOf } from '../event/copied-rows.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Offset, SourceIdentity } from '../event/offset.ts';
import { comparePosition, type Position, START } from '../event/position.ts';
import type { Located, StartOf, Subscription, Transport } from './transport.ts';

/** The only partition there is. */
const PARTITION = '';

/** What is kept of a batch until it is durable: not its events, which sinks may have taken long before. */
interface Published {
  readonly bytes: number;
  readonly commitEndLsn: Lsn | null;
  /** Subscriptions that hold it in memory, and those that have not applied it. */
  untaken: number;
  unapplied: number;
  readonly resolve: () => void;
}

function deferred(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve!: () => void;
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

/** The embedded transport: a batch is durable once every sink has applied it, so the slot waits for the slowest. */
export class InProcessTransport implements Transport {
  #identity: SourceIdentity | null = null;
  readonly #subscriptions = new Set<InProcessSubscription>();
  #bytesInFlight = 0;
  onFreed?: () => void;
  /** The slot gives nothing before it. */
  #confirmed: Lsn = 0n;

  get bytesInFlight(): number {
    return this.#bytesInFlight;
  }

  async openCapture(identity: SourceIdentity, confirmed: Lsn | null): Promise<void> {
    this.#identity = identity;
    this.#confirmed = confirmed ?? 0n;
  }

  async identity(): Promise<SourceIdentity> {
    if (!this.#identity) throw new Error('openCapture comes first');
    return this.#identity;
  }

  /** No closure may see the batch: what waits until it is durable would keep its events in memory. */
  publish(batch: Batch): Promise<void> {
    const { size } = this.#subscriptions;
    if (size === 0) return Promise.resolve();
    const bytes = weightOf(batch);
    this.#bytesInFlight += bytes;
    const { promise, resolve } = deferred();
    const { commitEndLsn } = batch;
    const published: Published = { bytes, commitEndLsn, untaken: size, unapplied: size, resolve };
    for (const subscription of this.#subscriptions) subscription.push(batch, published);
    return promise;
  }

  #free(bytes: number): void {
    this.#bytesInFlight -= bytes;
    this.onFreed?.();
  }

  async subscribe(_sink: string, from: readonly Offset[]): Promise<Subscription> {
    const subscription = new InProcessSubscription(
      from[0]?.position ?? START,
      (bytes) => this.#free(bytes),
      () => this.#subscriptions.delete(subscription),
    );
    this.#subscriptions.add(subscription);
    return subscription;
  }

  /** The slot is the only log: it goes back to what it has acknowledged. It knows no times. */
  async locate(_tables: unknown, from: StartOf, _saved: readonly Offset[]): Promise<Located> {
    if (!('lsn' in from)) throw new Error('the WAL is searched by LSN');
    const position = { commitLsn: from.lsn, seq: 0 };
    const first = { commitLsn: this.#confirmed, seq: 0 };
    const removed = from.lsn < this.#confirmed ? [{ partition: PARTITION, first }] : [];
    return { offsets: [{ partition: PARTITION, position, next: null }], removed };
  }

  async close(): Promise<void> {
    for (const subscription of this.#subscriptions) await subscription.close();
  }
}

class InProcessSubscription implements Subscription {
  readonly startsEmpty = false;
  readonly #queue: { readonly batch: Batch; readonly published: Published }[] = [];
  readonly #inFlight = new Map<Delivery, Published>();
  readonly #untaken = new Set<Delivery>();
  readonly #free: (bytes: number) => void;
  readonly #onClose: () => void;
  /** What the sink had when it was opened: a restarted slot may begin before it. Null once the stream has passed it. */
  #from: Position | null;
  #appliedLsn: Lsn = 0n;
  #receivedLsn: Lsn = 0n;
  #publishedLsn: Lsn = 0n;
  #wake: (() => void) | null = null;
  onAdvanced?: () => void;

  constructor(from: Position, free: (bytes: number) => void, onClose: () => void) {
    this.#from = from;
    this.#free = free;
    this.#appliedLsn = from.commitLsn;
    this.#receivedLsn = from.commitLsn;
    this.#onClose = onClose;
  }

  push(batch: Batch, published: Published): void {
    this.#publishedLsn = batch.commitEndLsn ?? this.#publishedLsn;
    this.#queue.push({ batch, published });
    this.#wake?.();
  }

  async receive(signal: AbortSignal): Promise<Delivery> {
    while (this.#queue.length === 0) {
      signal.throwIfAborted();
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          signal.removeEventListener('abort', wake);
          resolve();
        };
        this.#wake = wake;
        signal.addEventListener('abort', wake, { once: true });
      });
    }
    const { batch, published } = this.#queue.shift()!;
    const delivery = this.#deliver(batch, published.bytes);
    this.#inFlight.set(delivery, published);
    const { commitEndLsn } = batch;
    if (commitEndLsn !== null && commitEndLsn > this.#receivedLsn) this.#receivedLsn = commitEndLsn;
    this.#untaken.add(delivery);
    return delivery;
  }

  #deliver(batch: Batch, bytes: number): Delivery {
    const last = batch.events.at(-1);
    const reached: Position = batch.commitEndLsn !== null ? { commitLsn: batch.commitEndLsn, seq: 0 } : last!.position;
    let { events } = batch;
    const from = this.#from;
    if (from) {
      if (comparePosition(reached, from) > 0) this.#from = null;
      events = events.filter((event) => isAfter(event, from));
    }
    const offset: Offset = {
      partition: PARTITION,
      position: from && comparePosition(from, reached) > 0 ? from : reached,
      next: null,
    };
    const complete = batch.commitEndLsn !== null || last!.transaction.snapshot !== null;
    return { events, bytes, offsets: [offset], complete, ...(batch.trace && { traces: [batch.trace] }) };
  }

  taken(delivery: Delivery): void {
    const published = this.#inFlight.get(delivery);
    if (published && this.#untaken.delete(delivery) && --published.untaken === 0) this.#free(published.bytes);
  }

  applied(delivery: Delivery): void {
    this.taken(delivery);
    const published = this.#inFlight.get(delivery);
    if (!published) return;
    this.#inFlight.delete(delivery);
    const { commitEndLsn } = published;
    if (commitEndLsn !== null && commitEndLsn > this.#appliedLsn) this.#appliedLsn = commitEndLsn;
    if (--published.unapplied === 0) published.resolve();
    this.onAdvanced?.();
  }

  publishedLsn(): Lsn {
    return this.#publishedLsn;
  }

  appliedLsn(): Lsn {
    return this.#appliedLsn;
  }

  receivedLsn(): Lsn {
    return this.#receivedLsn;
  }

  async close(): Promise<void> {
    this.#onClose();
    this.#wake?.();
  }
}
