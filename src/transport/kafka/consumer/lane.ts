import type { ChangeEvent } from '../../../event/change-event.ts';
import type { Offset } from '../../../event/offset.ts';
import { comparePosition, type Position } from '../../../event/position.ts';
import type { Decoding } from './decoding.ts';
import type { Collected, Mark, PartitionReader } from './partition-reader.ts';
import { isMark } from './transaction-check.ts';

/** Decoded ahead per partition: with many partitions this is most of what a merge holds. */
const LANE_BYTES_MAX = 256 * 1024;

/** One partition in a merge: its decoded events, in order, from which the head is taken. */
export class Lane {
  readonly reader: PartitionReader;
  #events: ChangeEvent[] = [];
  #marks: Mark[] = [];
  #at = 0;
  #bytesEach = 0;
  /** Everything up to here has been taken, and is whole; null before anything was. */
  #safe: Offset | null = null;
  #taken: Offset | null = null;
  #told: bigint;

  constructor(reader: PartitionReader) {
    this.reader = reader;
    this.#told = reader.told;
  }

  get head(): ChangeEvent | undefined {
    return this.#events[this.#at];
  }

  get heldBytes(): number {
    return (this.#events.length - this.#at) * this.#bytesEach;
  }

  get bytesEach(): number {
    return this.#bytesEach;
  }

  /** Decodes more where there is nothing left and something was fetched. */
  async fill(decoding: Decoding): Promise<void> {
    while (this.head === undefined && this.reader.ready) {
      const marks: Mark[] = [];
      const into: Collected = { events: [], bytes: 0, bytesMax: LANE_BYTES_MAX, marks };
      await decoding.decode(this.reader, into);
      this.#events = into.events;
      this.#marks = marks;
      this.#at = 0;
      this.#bytesEach = into.events.length === 0 ? 0 : into.bytes / into.events.length;
    }
  }

  /** Takes the head; returns how many records it was. */
  take(): number {
    const { position } = this.#events[this.#at]!;
    const { next, records } = this.#marks[this.#at++]!;
    this.#taken = { partition: this.reader.key, position, next };
    return records;
  }

  /** All that was taken so far belongs to transactions that are whole. */
  settle(): void {
    this.#safe = this.#taken;
  }

  /** The offset to save; `all`: nothing taken is in an unfinished transaction. Null where it is the last one told. */
  offset(all: boolean): Offset | null {
    const offset = all && this.head === undefined ? this.reader.offset : this.#safe;
    if (!offset || offset.next === this.#told) return null;
    this.#told = offset.next!;
    return offset;
  }
}

/** Commit order; of one change first the delete of the old key, and the end of a transaction behind its last change. */
export function compareEvents(a: ChangeEvent, b: ChangeEvent): number {
  const order = comparePosition(positionOf(a), positionOf(b));
  return order !== 0 ? order : rank(a) - rank(b);
}

function positionOf(event: ChangeEvent): Position {
  return event.position;
}

function rank(event: ChangeEvent): number {
  return isMark(event) ? 2 : event.op === 'd' ? 0 : 1;
}
