import type { CopiedRows } from '../event/copied-rows.ts';
import { BACKSLASH, columnStart, TAB } from '../event/copy-text.ts';
import { SEPARATOR } from './table-watch.ts';

/** A few thousand keys leave most of it empty. */
const SLOTS = 1 << 16;
const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/**
 * Passes over rows whose key is none of a few, without making text of it: of a chunk's rows hardly one in a hundred was
 * changed while it was read. By FNV-1a of the key's bytes. Pure.
 */
export class KeyFilter {
  readonly #used = new Uint8Array(SLOTS);
  /** Bytes that are no text may have become the same text as other bytes. */
  #blind = false;

  /** Keys as `keyOf` makes them. */
  constructor(keys: Iterable<string>) {
    for (const key of keys) {
      this.#blind ||= key.includes('\ufffd');
      let hash = FNV_OFFSET;
      for (const byte of Buffer.from(key)) hash = Math.imul(hash ^ byte, FNV_PRIME);
      this.#used[slotOf(hash)] = 1;
    }
  }

  /** False only where the key of that row, in these columns, is none of them. */
  mayHave({ bytes, starts, ends }: CopiedRows, index: number, key: readonly number[]): boolean {
    if (this.#blind) return true;
    const stop = ends[index]! - 1;
    let hash = FNV_OFFSET;
    for (let part = 0; part < key.length; part++) {
      if (part > 0) hash = Math.imul(hash ^ SEPARATOR.charCodeAt(0), FNV_PRIME);
      for (let at = columnStart(bytes, starts[index]!, key[part]!); at < stop && bytes[at] !== TAB; at++) {
        // NULL, or a byte that stands for another: the text tells.
        if (bytes[at] === BACKSLASH) return true;
        hash = Math.imul(hash ^ bytes[at]!, FNV_PRIME);
      }
    }
    return this.#used[slotOf(hash)] === 1;
  }
}

const slotOf = (hash: number): number => (hash ^ (hash >>> 16)) & (SLOTS - 1);
