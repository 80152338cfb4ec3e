import type { ByteWriter } from './byte-writer.ts';
import type { ChangeEvent, Transaction } from './change-event.ts';
import type { Relation } from './relation.ts';

/** What the record's headers carry beside key and value; enough to decode without guessing. */
export interface RecordMeta {
  readonly transaction: Transaction;
  readonly seq: number;
  /** Indexes of columns whose value the WAL did not carry (unchanged TOAST); the value holds a placeholder there. */
  readonly unchanged: readonly number[];
  /** The relation exactly as it was when the event was captured. */
  readonly relation: Relation | null;
}

/**
 * Event ↔ bytes. JSON is one; Avro will be another. Encoders copy a tuple's bytes straight through where they can.
 * One codec instance belongs to one topic prefix and source; it may cache per relation object.
 */
export interface EventCodec {
  /** Appends the record key of the row (`after`, or `before` for a delete). False = no key (null), nothing appended. */
  writeKey(out: ByteWriter, event: ChangeEvent, which: 'before' | 'after'): boolean;
  /**
   * Appends the record value. `as` overrides the op for a key change, which goes out as a delete of the old key and
   * a create of the new one.
   */
  writeValue(out: ByteWriter, event: ChangeEvent, as?: 'c' | 'd'): void;
  /** Gives back the event that `writeValue` was given, its values text for text. Throws PROTOCOL on anything else. */
  readEvent(value: Buffer, meta: RecordMeta): ChangeEvent;
}
