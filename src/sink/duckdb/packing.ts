/*
 * Values of a DuckDB vector as PostgreSQL's array_send writes the elements of an array: the length in 4 bytes, -1 for NULL,
 * then what the type's send function gives, all of it big-endian. Words are put together in the machine's order and
 * swapped all at once.
 */

/** Rows [from, to) of a vector; `valid` has a bit for each row, null where no row is NULL. What is returned holds until the next call. */
export type Packer = (data: Uint8Array, valid: Uint8Array | null, from: number, to: number) => Uint8Array;

export interface Packing {
  /** Of a value in the vector. */
  readonly bytes: number;
  readonly pack: Packer;
  /** The vector holds signed integers in the order of the values. */
  readonly signed: boolean;
}

let scratch = new ArrayBuffer(1 << 16);

/** Memory that all packers share, since none keeps what it has packed. Its content is what was there before. */
export function scratchOf(bytes: number): ArrayBuffer {
  if (scratch.byteLength < bytes) scratch = new ArrayBuffer(bytes * 2);
  return scratch;
}

export const isNull = (valid: Uint8Array | null, i: number): boolean =>
  valid !== null && (valid[i >> 3]! & (1 << (i & 7))) === 0;
