import type { ByteWriter } from './byte-writer.ts';
import { NULL, TEXT } from './row.ts';

/*
 * COPY … TO STDOUT in text format (PostgreSQL manual, COPY, "Text Format"): columns divided by tabs, \N for NULL, and
 * in values \b \f \n \r \t \v \\ for those bytes. The server writes no other escape.
 */

export const TAB = 0x09;
const NEWLINE = 0x0a;
export const BACKSLASH = 0x5c;
const ESCAPES = new Map([
  ['b', 8],
  ['f', 12],
  ['n', 10],
  ['r', 13],
  ['t', 9],
  ['v', 11],
]);
/** What a byte after a backslash stands for. */
export const UNESCAPED = new Uint8Array(256).map((_, byte) => ESCAPES.get(String.fromCharCode(byte)) ?? byte);

/** Where column `column` begins of the row that begins at `at`. */
export function columnStart(bytes: Uint8Array, at: number, column: number): number {
  let start = at;
  for (let left = column; left > 0; start++) if (bytes[start] === TAB) left--;
  return start;
}

/** True where the value that begins at `at` is NULL. */
export function isNullAt(bytes: Uint8Array, at: number): boolean {
  return bytes[at] === BACKSLASH && bytes[at + 1] === 0x4e;
}

/** The bytes as words, for `valueEnd`. Node allocates every Buffer at a multiple of 8. */
export const wordsOf = (bytes: Buffer): Int32Array => new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);

/**
 * Where the first tab or backslash of a value is that begins at `at`; `stop`, the end of its row, where there is none before. Looks at
 * four bytes at once: (x - 1) & ~x has the top bit of a byte set where some byte of x is 0.
 */
export function valueEnd(bytes: Uint8Array, words: Int32Array, at: number, stop: number): number {
  let end = at;
  for (; (end & 3) !== 0; end++) if (end === stop || bytes[end] === TAB || bytes[end] === BACKSLASH) return end;
  const lastWord = stop >> 2;
  let word = end >> 2;
  for (; word < lastWord; word++) {
    const tab = words[word]! ^ 0x09090909;
    const backslash = words[word]! ^ 0x5c5c5c5c;
    if ((((tab - 0x01010101) & ~tab) | ((backslash - 0x01010101) & ~backslash)) & 0x80808080) break;
  }
  for (end = word << 2; end < stop; end++) if (bytes[end] === TAB || bytes[end] === BACKSLASH) break;
  return end;
}

/**
 * Appends the row in `bytes` from `at` to `end` (its newline included) to `out`, as TupleData of `columns` columns, so
 * that a copied row and a streamed one are read by the same decoder. Returns the offset of the tuple in `out`.
 * Throws a RangeError when the row does not have that many columns.
 */
export function copyRowToTuple(bytes: Buffer, at: number, end: number, columns: number, out: ByteWriter): number {
  // Each column costs its kind, its length and its bytes; unescaping only makes them fewer.
  const buffer = out.reserve(2 + columns * 5 + (end - at));
  const start = out.length;
  buffer[start] = columns >> 8;
  buffer[start + 1] = columns & 255;
  let write = start + 2;
  let read = at;
  let count = 0;
  const stop = bytes[end - 1] === NEWLINE ? end - 1 : end;
  while (count < columns) {
    count++;
    if (isNullAt(bytes, read)) {
      buffer[write++] = NULL;
      read += 2;
    } else {
      const head = write;
      write += 5;
      for (; read < stop; read++) {
        let byte = bytes[read]!;
        if (byte === TAB) break;
        if (byte === BACKSLASH) byte = UNESCAPED[bytes[++read]!]!;
        buffer[write++] = byte;
      }
      buffer[head] = TEXT;
      buffer.writeUInt32BE(write - head - 5, head + 1);
    }
    if (count < columns) {
      if (bytes[read] !== TAB || read >= stop)
        throw new RangeError(`a copied row has ${count} columns, not ${columns}`);
      read++;
    }
  }
  if (read !== stop) throw new RangeError(`a copied row has more than ${columns} columns`);
  out.length = write;
  return start;
}
