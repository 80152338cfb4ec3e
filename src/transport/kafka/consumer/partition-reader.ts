import { messageOf, WaltideError } from '../../../errors.ts';
import { ChangeEvent } from '../../../event/change-event.ts';
import type { EventCodec } from '../../../event/codec.ts';
import type { Offset } from '../../../event/offset.ts';
import type { Position } from '../../../event/position.ts';
import { partitionKey } from '../cluster.ts';
import { type FetchedBatch, RecordCursor } from '../record-reader.ts';
import type { HeaderDecoder } from './record-decoder.ts';

/** Fetching ahead of the decoder, per partition. */
const QUEUE_BYTES_MAX = 4 * 1024 * 1024;

/** Why decoding stopped. `relation`: the schema topic must be read first. `barrier`: see `Barrier`. */
export type Stop = 'empty' | 'full' | 'relation' | 'barrier';

/** A truncate that waits until every partition of its topic has come to it. */
export interface Barrier {
  readonly event: ChangeEvent;
  readonly next: bigint;
}

/** Where one event of a partition ends. */
export interface Mark {
  /** The log offset behind it. */
  readonly next: bigint;
  /** How many records it was: 2 for a changed key that was put together again. */
  readonly records: number;
}

/** Collects what the decoder gives, up to a limit. */
export interface Collected {
  readonly events: ChangeEvent[];
  bytes: number;
  readonly bytesMax: number;
  /** Where the caller wants to know: one for each event. */
  readonly marks?: Mark[];
}

/**
 * One partition on the reader's side: where it is, what was fetched, what is held back. Skips what lies at or
 * before its position: a capture that crashed publishes again what it had not acknowledged.
 */
export class PartitionReader {
  readonly topic: string;
  readonly partition: number;
  readonly key: string;
  /** The log offset to fetch next. */
  fetchNext: bigint;
  leader = -1;
  fetching = false;
  /** Others wait for what comes here next: it is fetched though memory is short. */
  urgent = false;
  queuedBytes = 0;
  barrier: Barrier | null = null;
  /** The delete of a changed key, until the create behind it makes one update of both. */
  #held: { event: ChangeEvent; offset: bigint } | null = null;
  readonly #queue: FetchedBatch[] = [];
  readonly #cursor = new RecordCursor();
  #current: FetchedBatch | null = null;
  /** A record that could not be decoded yet is looked at again. */
  #again = false;
  #position: Position;
  /** 0 after the delete of a changed key, 1 after everything else: (position, part) never goes back. */
  #part = 1;
  #next: bigint;
  #told: bigint;

  /** `unsaved`: the sink does not know where it begins, and is told with the first offsets. */
  constructor(topic: string, partition: number, from: Offset, unsaved = false) {
    this.topic = topic;
    this.partition = partition;
    this.key = partitionKey(topic, partition);
    this.#position = from.position;
    this.#next = from.next ?? 0n;
    this.#told = unsaved ? -1n : this.#next;
    this.fetchNext = this.#next;
  }

  get position(): Position {
    return this.#position;
  }

  get ready(): boolean {
    return this.barrier === null && (this.#current !== null || this.#queue.length > 0);
  }

  get wantsMore(): boolean {
    return !this.fetching && this.barrier === null && this.queuedBytes < QUEUE_BYTES_MAX;
  }

  accept(batches: readonly FetchedBatch[]): void {
    for (const batch of batches) {
      if (batch.nextOffset <= this.fetchNext) continue;
      this.fetchNext = batch.nextOffset;
      this.#queue.push(batch);
      this.queuedBytes += batch.bytes.length;
    }
  }

  /** The log offset that the sink knows. */
  get told(): bigint {
    return this.#told;
  }

  /** The offset to save for what was given out so far. */
  get offset(): Offset {
    return { partition: this.key, position: this.#saved, next: this.#held ? this.#held.offset : this.#next };
  }

  /** As `offset`; null where nothing is new since the last call. */
  takeOffset(): Offset | null {
    const { offset } = this;
    if (offset.next === this.#told) return null;
    this.#told = offset.next!;
    return offset;
  }

  /** Everything below the log offset `end` was given out. */
  reached(end: bigint): boolean {
    return this.#next >= end && !this.#held;
  }

  /** The position that goes with an offset before a held delete. */
  #savedBeforeHeld: Position | null = null;
  get #saved(): Position {
    return this.#held ? this.#savedBeforeHeld! : this.#position;
  }

  /** Decodes into `into` until nothing is left, it is full, or something must happen first. */
  decode(into: Collected, headers: HeaderDecoder, codec: Pick<EventCodec, 'readEvent'>): Stop {
    const cursor = this.#cursor;
    for (;;) {
      if (this.barrier) return 'barrier';
      if (into.bytes >= into.bytesMax) return 'full';
      if (!this.#current) {
        const batch = this.#queue.shift();
        if (!batch) return 'empty';
        this.#current = batch;
        cursor.open(batch);
      }
      if (!this.#again && !cursor.next()) {
        this.queuedBytes -= this.#current.bytes.length;
        if (this.#current.nextOffset > this.#next) this.#next = this.#current.nextOffset;
        this.#current = null;
        continue;
      }
      this.#again = false;
      if (cursor.offset < this.#next) continue;
      const stop = this.#record(into, headers, codec);
      if (stop) {
        this.#again = true;
        return stop;
      }
    }
  }

  /** The barrier is over: everything before and the truncate itself count as given out. */
  passBarrier(): ChangeEvent {
    const { event, next } = this.barrier!;
    this.barrier = null;
    this.#advance(event, 1, next);
    return event;
  }

  #record(into: Collected, headers: HeaderDecoder, codec: Pick<EventCodec, 'readEvent'>): Stop | null {
    const cursor = this.#cursor;
    const next = cursor.offset + 1n;
    if (cursor.valueEnd < 0) {
      this.#next = next;
      return null;
    }
    if (!headers.read(cursor)) throw this.#foreign('it has no Waltide headers');
    const part = headers.keyChange === 'd' ? 0 : 1;
    if (!this.#isNew(headers, part)) {
      this.#next = next;
      return null;
    }
    if (headers.relation === undefined) return 'relation';
    const event = this.#event(headers, codec);
    into.bytes += cursor.valueEnd - cursor.valueAt;
    if (headers.keyChange === 'd') {
      this.#release(into);
      this.#savedBeforeHeld = this.#position;
      this.#held = { event, offset: cursor.offset };
    } else if ((event.op === 't' || event.op === 'm') && this.truncateIsBarrier) {
      this.#release(into);
      this.barrier = { event, next };
      return null;
    } else if (headers.keyChange === 'c' && this.#held && sameChange(this.#held.event, event)) {
      into.events.push(asUpdate(this.#held.event, event));
      into.marks?.push({ next, records: 2 });
      this.#held = null;
    } else {
      this.#release(into);
      into.events.push(event);
      into.marks?.push({ next, records: 1 });
    }
    this.#advance(event, part, next);
    return null;
  }

  /** Set where the topic has more than one partition. */
  truncateIsBarrier = false;

  #isNew({ transaction, seq }: HeaderDecoder, part: number): boolean {
    const { commitLsn } = transaction!;
    const at = this.#position;
    if (commitLsn !== at.commitLsn) return commitLsn > at.commitLsn;
    return seq === at.seq ? part > this.#part : seq > at.seq;
  }

  #advance(event: ChangeEvent, part: number, next: bigint): void {
    this.#position = event.position;
    this.#part = part;
    this.#next = next;
  }

  /** A held delete whose create never came (compaction removed it) is a delete. */
  #release(into: Collected): void {
    if (!this.#held) return;
    into.events.push(this.#held.event);
    into.marks?.push({ next: this.#held.offset + 1n, records: 1 });
    this.#held = null;
  }

  #event(headers: HeaderDecoder, codec: Pick<EventCodec, 'readEvent'>): ChangeEvent {
    const { bytes, valueAt, valueEnd } = this.#cursor;
    try {
      return codec.readEvent(bytes.subarray(valueAt, valueEnd), headers.meta());
    } catch (error) {
      throw this.#foreign(messageOf(error), error);
    }
  }

  #foreign(why: string, cause?: unknown): WaltideError {
    return new WaltideError(
      'PROTOCOL',
      `Topic ${this.topic}, partition ${this.partition}, offset ${this.#cursor.offset}: not a record of Waltide: ${why}`,
      'Waltide must be the only writer of its topics; give it a topicPrefix of its own.',
      { cause },
    );
  }
}

function sameChange(a: ChangeEvent, b: ChangeEvent): boolean {
  return a.seq === b.seq && a.transaction.commitLsn === b.transaction.commitLsn;
}

/** The update that the delete of the old key and the create of the new one came from. */
function asUpdate(deleted: ChangeEvent, created: ChangeEvent): ChangeEvent {
  const { transaction, seq, tableSeq, lsn, relation, after } = created;
  return new ChangeEvent('u', transaction, seq, tableSeq, lsn, relation, deleted.before, after);
}
