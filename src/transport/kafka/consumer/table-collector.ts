import type { Delivery } from '../../../event/batch.ts';
import { openBarrier } from './barrier.ts';
import type { Decoding } from './decoding.ts';
import type { Collected, PartitionReader } from './partition-reader.ts';

/** Decoded at once: a few thousand events, some ten milliseconds. */
export const DELIVERY_BYTES_MAX = 4 * 1024 * 1024;

/** Makes deliveries of what the readers have. */
export interface Collector {
  /** The next delivery; null where nothing can be handed out now. */
  collect(readers: readonly PartitionReader[]): Promise<Delivery | null>;
  /** Bytes that were taken from the readers and not handed out yet. */
  readonly heldBytes: number;
}

/** Each table in its own order; all of them as they come. */
export class TableCollector implements Collector {
  readonly #decoding: Decoding;
  readonly heldBytes = 0;
  #turn = 0;

  constructor(decoding: Decoding) {
    this.#decoding = decoding;
  }

  async collect(readers: readonly PartitionReader[]): Promise<Delivery | null> {
    const into: Collected = { events: [], bytes: 0, bytesMax: DELIVERY_BYTES_MAX };
    // Begin with another one each time, so that a busy table does not starve the others.
    const start = this.#turn++ % Math.max(1, readers.length);
    for (let i = 0; i < readers.length && into.bytes < into.bytesMax; i++) {
      const reader = readers[(start + i) % readers.length]!;
      if (reader.ready) await this.#decode(reader, readers, into);
    }
    const offsets = readers.map((reader) => reader.takeOffset()).filter((offset) => offset !== null);
    if (into.events.length === 0 && offsets.length === 0) return null;
    return { events: into.events, bytes: into.bytes, offsets, complete: true };
  }

  async #decode(reader: PartitionReader, readers: readonly PartitionReader[], into: Collected): Promise<void> {
    while ((await this.#decoding.decode(reader, into)) === 'barrier') {
      const event = openBarrier(readers.filter(({ topic }) => topic === reader.topic));
      if (!event) return;
      into.events.push(event);
    }
  }
}
