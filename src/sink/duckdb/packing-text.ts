/*
 * Texts of several columns as DuckDB gathers them, row by row: each after its length in bytes and a colon, NULL as a colon
 * alone. They are parted again, and written as PostgreSQL's array_send writes them.
 */

const [ZERO, COLON] = [48, 58];
const LENGTH_BYTES = 4;
/** Fewer bytes are copied faster one by one. */
const COPY_BYTES_MIN = 48;

/** The elements of each column, of so many rows. */
export function partTexts(gathered: Uint8Array, columns: number, rows: number): Uint8Array[] {
  const bytes = Math.ceil(gathered.length / columns) + rows * LENGTH_BYTES;
  const packed = Array.from({ length: columns }, () => new Uint8Array(bytes));
  const ends = new Int32Array(columns);
  const size = gathered.length;
  for (let at = 0, column = 0; at < size; column = column + 1 === columns ? 0 : column + 1) {
    let digit = gathered[at++]!;
    const isNull = digit === COLON;
    let length = 0;
    for (; digit !== COLON; digit = gathered[at++]!) length = length * 10 + digit - ZERO;
    const end = ends[column]! + LENGTH_BYTES;
    let out = packed[column]!;
    if (end + length > out.length) {
      out = new Uint8Array((end + length) * 2);
      out.set(packed[column]!);
      packed[column] = out;
    }
    writeLength(out, end, isNull ? -1 : length);
    if (length < COPY_BYTES_MIN) for (let i = 0; i < length; i++) out[end + i] = gathered[at + i]!;
    else out.set(gathered.subarray(at, at + length), end);
    at += length;
    ends[column] = end + length;
  }
  return packed.map((out, column) => out.subarray(0, ends[column]));
}

function writeLength(out: Uint8Array, end: number, length: number): void {
  out[end - 4] = length >> 24;
  out[end - 3] = length >> 16;
  out[end - 2] = length >> 8;
  out[end - 1] = length;
}
