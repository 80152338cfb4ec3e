import type { Delivery } from '../../../event/batch.ts';
import type { ChangeEvent } from '../../../event/change-event.ts';
import type { Lsn } from '../../../event/lsn.ts';
import type { Offset } from '../../../event/offset.ts';
import { partitionKey } from '../cluster.ts';
import type { Progress } from '../progress.ts';
import type { Decoding } from './decoding.ts';
import { compareEvents, Lane } from './lane.ts';
import type { PartitionReader } from './partition-reader.ts';
import { type Collector, DELIVERY_BYTES_MAX } from './table-collector.ts';
import { isMark, TransactionCheck } from './transaction-check.ts';

type Bound = Pick<Progress, 'lsn' | 'ends' | 'copyLsn'>;

/** What is known of the log apart from its records. */
export interface LogState {
  /** The newest there is; null while there is none. */
  progress(): Bound | null;
  /** See Subscription.startsEmpty. */
  startsEmpty(): boolean;
}

/**
 * Puts the tables together again in commit order. Positions rise in every partition, and a progress record says that
 * everything before its LSN lies below its ends: so the least head is next once every other partition has a head too,
 * or was read up to its end. Source transactions stay whole, and what came of each is compared with what its END says;
 * one larger than a delivery comes in parts, of which only the last is complete. Rows of a first copy are no
 * transaction: each table's come as they are.
 */
export class TransactionCollector implements Collector {
  readonly #decoding: Decoding;
  readonly #log: LogState;
  #lanes: Lane[] = [];
  #bound: Bound | null = null;
  /** The transaction of the last event taken, until nothing more of it can come. */
  #open: { check: TransactionCheck; divisible: boolean } | null = null;
  #last: ChangeEvent | null = null;
  #events: ChangeEvent[] = [];
  #bytes = 0;
  /** How much of `#events` belongs to transactions that are whole. */
  #whole = { events: 0, bytes: 0 };
  /** Transactions up to here may have been applied in part, table by table, before this began. */
  #uncheckedLsn: Lsn = 0n;
  #checking: boolean | null = null;

  constructor(decoding: Decoding, log: LogState) {
    this.#decoding = decoding;
    this.#log = log;
  }

  get heldBytes(): number {
    return this.#lanes.reduce((sum, lane) => sum + lane.heldBytes, this.#bytes);
  }

  async collect(readers: readonly PartitionReader[]): Promise<Delivery | null> {
    this.#follow(readers);
    for (const lane of this.#lanes) await lane.fill(this.#decoding);
    await this.#copied();
    while (this.#bytes < DELIVERY_BYTES_MAX) {
      const lane = this.#next();
      if (lane) await this.#drain(lane);
      else if (!this.#adoptBound()) break;
    }
    if (this.#open && (this.#open.divisible || this.#isOver(this.#open.check.commitLsn))) this.#close();
    return this.#handOut();
  }

  #follow(readers: readonly PartitionReader[]): void {
    this.#checking ??= !this.#log.startsEmpty();
    const known = new Map(this.#lanes.map((lane) => [lane.reader, lane]));
    if (known.size === readers.length && readers.every((reader) => known.has(reader))) return;
    for (const reader of readers) {
      if (!known.has(reader) && reader.position.commitLsn > this.#uncheckedLsn)
        this.#uncheckedLsn = reader.position.commitLsn;
    }
    this.#lanes = readers.map((reader) => known.get(reader) ?? new Lane(reader));
  }

  /**
   * True where there was a newer one to take. The old one is kept as long as there is anything below it, and until all
   * topics that the new one names are among the lanes: partitions may be assigned while these are being read.
   */
  #adoptBound(): boolean {
    const bound = this.#log.progress();
    if (!bound || bound === this.#bound) return false;
    const read = new Set(this.#lanes.map(({ reader }) => reader.key));
    for (const [topic, ends] of bound.ends)
      if (ends.some((end, i) => end > 0n && !read.has(partitionKey(topic, i)))) return false;
    this.#bound = bound;
    return true;
  }

  /** The lane with the next event of all; null where that cannot be told yet. */
  #next(): Lane | null {
    const bound = this.#bound;
    if (!bound) return null;
    let least: Lane | null = null;
    let blocked = false;
    for (const lane of this.#lanes) {
      const { head, reader } = lane;
      reader.urgent = head === undefined && !this.#hasReached(lane);
      if (reader.urgent) blocked = true;
      else if (head && (!least || compareEvents(head, least.head!) < 0)) least = lane;
    }
    if (blocked || !least || least.head!.transaction.commitLsn >= bound.lsn) return null;
    return isInitial(least.head!) ? null : least;
  }

  #hasReached({ reader }: Lane): boolean {
    return reader.reached(this.#bound?.ends.get(reader.topic)?.[reader.partition] ?? 0n);
  }

  /** Takes events of the lane with the least head until another lane's is less. */
  async #drain(lane: Lane): Promise<void> {
    let limit: ChangeEvent | null = null;
    for (const other of this.#lanes) {
      const { head } = other;
      if (other !== lane && head && (!limit || compareEvents(head, limit) < 0)) limit = head;
    }
    const { lsn } = this.#bound!;
    for (let { head } = lane; head; { head } = lane) {
      if (head.transaction.commitLsn >= lsn || isInitial(head)) return;
      if (limit && compareEvents(head, limit) > 0) return;
      this.#take(lane, head);
      if (this.#bytes >= DELIVERY_BYTES_MAX) return;
    }
    await lane.fill(this.#decoding);
  }

  /** Rows of first copies, and their beginnings and ends once every partition of the topic has come to them. */
  async #copied(): Promise<void> {
    if (this.#open) return;
    for (const lane of this.#lanes) {
      for (let { head } = lane; head && isInitial(head) && this.#bytes < DELIVERY_BYTES_MAX; { head } = lane) {
        if (head.op === 'r') this.#take(lane, head);
        else {
          const all = this.#lanes.filter(({ reader }) => reader.topic === lane.reader.topic);
          const position = head;
          if (!all.every((other) => other.head && compareEvents(other.head, position) === 0)) break;
          for (const other of all) this.#take(other, other.head!);
        }
        if (lane.head === undefined) await lane.fill(this.#decoding);
      }
    }
    if (this.#open) this.#close();
  }

  #take(lane: Lane, event: ChangeEvent): void {
    const { transaction } = event;
    if (this.#open && this.#open.check.commitLsn !== transaction.commitLsn) this.#close();
    this.#open ??= { check: new TransactionCheck(transaction.commitLsn), divisible: transaction.snapshot !== null };
    // A sink that started empty holds nothing before its first snapshot; transactions from then on came after it.
    if (event.op === 't' && transaction.snapshot) this.#checking = true;
    const bytes = lane.bytesEach;
    this.#open.check.take(event, lane.take());
    // Every partition has a copy of what concerns the whole table.
    const copy = this.#last !== null && event.relation !== null && compareEvents(event, this.#last) === 0;
    if (isMark(event) || (copy && (event.op === 't' || event.op === 'm'))) return;
    this.#last = event;
    this.#events.push(event);
    this.#bytes += bytes;
  }

  /** True once nothing more can come of the transaction. */
  #isOver(commitLsn: Lsn): boolean {
    if (!this.#bound || this.#bound.lsn <= commitLsn) return false;
    return this.#lanes.every((lane) =>
      lane.head ? lane.head.transaction.commitLsn > commitLsn : !lane.reader.ready && this.#hasReached(lane),
    );
  }

  /** The open transaction has ended: everything taken so far is whole. */
  #close(): void {
    const { check, divisible } = this.#open!;
    this.#open = null;
    const copied = this.#bound?.copyLsn ?? 0n;
    // What precedes the newest copy is replaced by it, and may have been left unfinished by the capture before.
    if (!divisible && this.#checking && check.commitLsn > this.#uncheckedLsn && check.commitLsn > copied)
      check.finish();
    for (const lane of this.#lanes) lane.settle();
    this.#whole = { events: this.#events.length, bytes: this.#bytes };
  }

  #handOut(): Delivery | null {
    const { events: count, bytes } = this.#whole;
    if (count === 0 && this.#bytes >= DELIVERY_BYTES_MAX) {
      const part = { events: this.#events, bytes: this.#bytes, offsets: [], complete: false };
      this.#events = [];
      this.#bytes = 0;
      return part;
    }
    const offsets: Offset[] = [];
    for (const lane of this.#lanes) {
      const offset = lane.offset(this.#open === null);
      if (offset) offsets.push(offset);
    }
    if (count === 0 && offsets.length === 0) return null;
    const events = this.#events.slice(0, count);
    this.#events = this.#events.slice(count);
    this.#bytes -= bytes;
    this.#whole = { events: 0, bytes: 0 };
    return { events, bytes, offsets, complete: true };
  }
}

/** Of the copy that comes before anything is streamed. */
function isInitial({ transaction }: ChangeEvent): boolean {
  return transaction.snapshot?.kind === 'initial';
}
