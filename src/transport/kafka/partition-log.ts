import type { ByteWriter } from '../../event/byte-writer.ts';
import { BatchEncoder, stamp } from './record-batch.ts';

/** Kafka keeps what it needs to recognise a repetition for the last five batches of a producer and partition. */
const IN_FLIGHT_MAX = 5;
/**
 * A broker that knows nothing of a producer takes any sequence for its first, so that a second batch could pass a
 * lost first one unnoticed. Until a first one is confirmed, it goes alone; and again after a pause, since brokers
 * forget producers that are idle (`producer.id.expiration.ms`, a day by default).
 */
const KNOWN_FOR_MS = 60_000;
/** While a request is under way, what comes next gathers in the open batch until it is worth a request of its own. */
const WORTH_SENDING_BYTES = 64 * 1024;
const SPARE_WRITERS_MAX = 32;

/** Counts the batches that one `publish` is in; `done` runs once when the last of them is durable. */
export class Ticket {
  #pending = 0;
  #open = true;
  readonly #done: () => void;

  constructor(done: () => void) {
    this.#done = done;
  }

  add(): void {
    this.#pending++;
  }

  settle(): void {
    if (--this.#pending === 0 && !this.#open) this.#done();
  }

  /** No more batches will be added. */
  close(): void {
    this.#open = false;
    if (this.#pending === 0) this.#done();
  }
}

/** A batch that takes no more records. Kept until the broker has confirmed it. */
export interface SealedBatch {
  readonly bytes: Buffer;
  readonly length: number;
  readonly count: number;
  readonly tickets: readonly Ticket[];
  readonly writer: ByteWriter | null;
  /** Number of the Kafka transaction that it belongs to; 0 without transactions. */
  readonly transaction: number;
  /** Number of its first record in the producer's sequence; -1 until it is sent for the first time. */
  sequence: number;
  confirmed: boolean;
  /** The log offset after its last record, once confirmed. */
  end: bigint;
}

/** Buffers of confirmed batches, used again: allocating a megabyte per batch would keep the collector busy. */
const spareWriters: ByteWriter[] = [];

/** Which Kafka transaction records are written to, and which one is being sent: at most one ahead of the other. */
export interface TransactionClock {
  writing: number;
  sending: number;
  /** False where there are no transactions: then both stay 0. */
  readonly enabled: boolean;
}

const NO_TRANSACTIONS: TransactionClock = { writing: 0, sending: 0, enabled: false };

/** One partition on the producer's side: the batch being written, and those that wait or are under way, in order. */
export class PartitionLog {
  readonly topic: string;
  readonly partition: number;
  /** The log offset up to which everything is known to be durable. */
  end = 0n;
  /** The offset of the next record is this or higher, unless the topic is another one by now. */
  floor = 0n;
  inFlight = 0;
  /** An attempt failed: nothing is sent until all that is under way has come back, then all again, in order. */
  rewinding = false;
  /** The broker found the first batch too large; it is to be split once nothing is under way. */
  tooLarge = false;
  waitUntilMs = 0;
  #open: BatchEncoder | null = null;
  #openTickets: Ticket[] = [];
  #batches: SealedBatch[] = [];
  #unsent = 0;
  #nextSequence = 0;
  #confirmedMs = Number.NEGATIVE_INFINITY;
  readonly #clock: TransactionClock;
  /** Confirmed, and to be sent again should the Kafka transaction fail. */
  #kept: SealedBatch[] = [];

  constructor(topic: string, partition: number, clock = NO_TRANSACTIONS) {
    this.#clock = clock;
    this.topic = topic;
    this.partition = partition;
  }

  /** Nothing waits and nothing is under way. */
  get empty(): boolean {
    return this.#batches.length === 0 && (this.#open === null || this.#open.count === 0);
  }

  get head(): SealedBatch | undefined {
    return this.#batches[0];
  }

  batch(): BatchEncoder {
    this.#open ??= new BatchEncoder(spareWriters.pop());
    return this.#open;
  }

  /** A record of `ticket` was written to the open batch. */
  wrote(ticket: Ticket): void {
    const tickets = this.#openTickets;
    if (tickets[tickets.length - 1] === ticket) return;
    tickets.push(ticket);
    ticket.add();
  }

  /** Closes the open batch, before those of later Kafka transactions; its time is now, so that retention counts from when Kafka got it. */
  seal(transaction = this.#clock.writing): void {
    const open = this.#open;
    if (!open || open.count === 0) return;
    open.finish(Date.now());
    const { out } = open;
    const { length } = out;
    const small = length < out.bytes.length / 4;
    const bytes = small ? Buffer.from(out.bytes.subarray(0, length)) : out.bytes;
    if (small) recycle(out);
    const later = this.#batches.findIndex((batch) => batch.transaction > transaction);
    this.#batches.splice(later < 0 ? this.#batches.length : later, 0, {
      bytes,
      length,
      count: open.count,
      tickets: this.#openTickets,
      writer: small ? null : out,
      transaction,
      sequence: -1,
      confirmed: false,
      end: 0n,
    });
    this.#open = null;
    this.#openTickets = [];
  }

  /** The next batch to send, if one may go now. */
  next(): SealedBatch | null {
    if (this.rewinding || this.inFlight >= IN_FLIGHT_MAX) return null;
    if (this.inFlight > 0 && performance.now() - this.#confirmedMs > KNOWN_FOR_MS) return null;
    while (this.#batches[this.#unsent]?.confirmed) this.#unsent++;
    // Counted from the first one not confirmed: whatever may be sent again must be among the broker's last five.
    if (this.#unsent >= IN_FLIGHT_MAX) return null;
    if (this.#unsent >= this.#batches.length) {
      const open = this.#open;
      if (!open || open.count === 0 || (this.inFlight > 0 && open.length < WORTH_SENDING_BYTES)) return null;
      if (this.#clock.writing > this.#clock.sending) return null;
      this.seal();
    }
    const batch = this.#batches[this.#unsent];
    return batch && batch.transaction <= this.#clock.sending ? batch : null;
  }

  /** Something of the Kafka transaction under way is not confirmed yet. */
  get pending(): boolean {
    const { writing, sending } = this.#clock;
    if (writing <= sending && this.#open !== null && this.#open.count > 0) return true;
    return this.#batches.some(({ confirmed, transaction }) => !confirmed && transaction <= sending);
  }

  /** The Kafka transaction is committed: what was confirmed is durable. */
  release(): void {
    const kept = this.#kept;
    this.#kept = [];
    for (const batch of kept) {
      if (batch.writer) recycle(batch.writer);
      for (const ticket of batch.tickets) ticket.settle();
    }
  }

  /** Drops everything that was not committed. */
  discard(): void {
    this.#kept = [];
    this.#batches = [];
    this.#unsent = 0;
  }

  /** Takes what `next` gave, signed for `producer`. */
  take(batch: SealedBatch, producer: { readonly id: bigint; readonly epoch: number }): void {
    if (batch.sequence < 0) {
      batch.sequence = this.#nextSequence;
      this.#nextSequence = addSequence(this.#nextSequence, batch.count);
      stamp(batch.bytes, batch.length, producer.id, producer.epoch, batch.sequence, this.#clock.enabled);
    }
    this.#unsent++;
    this.inFlight++;
  }

  /** `batch` is durable, and ends before the log offset `end`. Its tickets are settled; its buffer is used again. */
  confirm(batch: SealedBatch, end: bigint): void {
    if (batch.confirmed) return;
    batch.confirmed = true;
    this.#confirmedMs = performance.now();
    batch.end = end;
    while (this.#batches[0]?.confirmed) {
      const [first] = this.#batches.splice(0, 1);
      if (this.#unsent > 0) this.#unsent--;
      if (first!.end > this.end) this.end = first!.end;
      if (this.#clock.enabled) this.#kept.push(first!);
      else if (first!.writer) recycle(first!.writer);
    }
    if (this.#clock.enabled) return;
    // Last, since what settles may ask where the log ends.
    for (const ticket of batch.tickets) ticket.settle();
  }

  /** Once all attempts have come back, begin again with the first batch that is not confirmed. */
  rewindIfDrained(): boolean {
    if (!this.rewinding || this.inFlight > 0) return false;
    this.rewinding = false;
    this.#unsent = 0;
    return true;
  }

  /** A new producer number counts from zero. Only while nothing is under way. */
  restartSequence(): void {
    this.rewinding = false;
    this.#unsent = 0;
    this.#nextSequence = 0;
    this.#confirmedMs = Number.NEGATIVE_INFINITY;
    // Within a Kafka transaction that failed, nothing is confirmed.
    this.#batches = this.#clock.enabled
      ? [...this.#kept, ...this.#batches]
      : this.#batches.filter((batch) => !batch.confirmed);
    this.#kept = [];
    for (const batch of this.#batches) {
      batch.sequence = -1;
      batch.confirmed = false;
    }
  }

  /** Puts `parts` in place of the first batch. Only while nothing is under way. */
  replaceHead(parts: readonly SealedBatch[]): void {
    const [first] = this.#batches.splice(0, 1, ...parts);
    // The sequence goes on where the broker stands: at what it refused.
    if (first && first.sequence >= 0) this.#nextSequence = first.sequence;
    for (const batch of this.#batches) batch.sequence = -1;
    this.#unsent = 0;
  }
}

function recycle(writer: ByteWriter): void {
  writer.length = 0;
  if (spareWriters.length < SPARE_WRITERS_MAX) spareWriters.push(writer);
}

/** Sequences wrap to 0 after 2^31 - 1. */
function addSequence(sequence: number, count: number): number {
  const sum = sequence + count;
  return sum > 0x7fffffff ? sum - 0x80000000 : sum;
}
