import { type Cells, refuse } from './cells.ts';

const OPEN = 0x7b;
const CLOSE = 0x7d;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;

export interface SplitArrays {
  /** Every element of every array, one after another; NULL elements start at -1. */
  readonly elements: Cells;
  readonly total: number;
  /** Offset and length per row, as DuckDB's list entries. */
  readonly entries: BigUint64Array<ArrayBuffer>;
  /** The row that an element belongs to. */
  rowOf(element: number): number;
}

/**
 * Splits array literals into their elements, which stay where they are on the heap unless they hold backslashes: those
 * are appended to it without. A list has one dimension that begins at 1; the first array with others is refused.
 */
export function splitArray(cells: Cells, count: number): SplitArrays {
  const entries = new BigUint64Array(count * 2);
  const elements: Cells = { heap: cells.heap, starts: new Int32Array(count * 4), ends: new Int32Array(count * 4) };
  let total = 0;
  for (let i = 0; i < count; i++) {
    if (cells.starts[i] === -1) continue;
    const first = total;
    total = splitOne(cells, i, elements, total);
    entries[i * 2] = BigInt(first);
    entries[i * 2 + 1] = BigInt(total - first);
  }
  const rowOf = (element: number): number => {
    for (let i = 0; i < count; i++) {
      const first = Number(entries[i * 2]);
      if (cells.starts[i] !== -1 && element >= first && element < first + Number(entries[i * 2 + 1])) return i;
    }
    return 0;
  };
  return { elements, total, entries, rowOf };
}

function splitOne(cells: Cells, row: number, elements: Cells, from: number): number {
  const { heap } = cells;
  const end = cells.ends[row]!;
  let at = cells.starts[row]!;
  let total = from;
  const first = heap.bytes[at];
  if (first !== OPEN) refuse(cells, row, 'a LIST', 'its bounds do not begin at 1');
  if (heap.bytes[end - 1] !== CLOSE) refuse(cells, row, 'a LIST', 'it is not an array');
  at++;
  if (at === end - 1) return total;
  while (at < end) {
    if (heap.bytes[at] === OPEN) refuse(cells, row, 'a LIST', 'it has more than one dimension');
    if (total === elements.starts.length) grow(elements);
    const quoted = heap.bytes[at] === QUOTE;
    at = quoted ? quotedElement(elements, total, at + 1, end) : plainElement(elements, total, at);
    total++;
    const byte = heap.bytes[at];
    at++;
    if (byte === CLOSE && at === end) return total;
    if (byte !== COMMA) break;
  }
  return refuse(cells, row, 'a LIST', 'it is not an array');
}

/** Up to the next `,` or `}`; an unquoted NULL is NULL. Returns where it ended. */
function plainElement(elements: Cells, index: number, start: number): number {
  const b = elements.heap.bytes;
  let at = start;
  while (b[at] !== COMMA && b[at] !== CLOSE) at++;
  const isNull = at - start === 4 && b.toString('latin1', start, at).toUpperCase() === 'NULL';
  elements.starts[index] = isNull ? -1 : start;
  elements.ends[index] = at;
  return at;
}

/** Up to the closing quote. Returns where the text after it begins. */
function quotedElement(elements: Cells, index: number, start: number, end: number): number {
  let b = elements.heap.bytes;
  let at = start;
  while (at < end && b[at] !== QUOTE && b[at] !== BACKSLASH) at++;
  elements.starts[index] = start;
  elements.ends[index] = at;
  if (b[at] !== BACKSLASH) return at + 1;
  const { heap } = elements;
  b = heap.reserve(end - start);
  const copied = heap.length;
  let to = copied;
  for (at = start; at < end && b[at] !== QUOTE; at++) {
    if (b[at] === BACKSLASH) at++;
    b[to++] = b[at]!;
  }
  heap.length = to;
  elements.starts[index] = copied;
  elements.ends[index] = to;
  return at + 1;
}

function grow(elements: Cells): void {
  const size = Math.max(64, elements.starts.length * 2);
  for (const side of ['starts', 'ends'] as const) {
    const grown = new Int32Array(size);
    grown.set(elements[side]);
    elements[side] = grown;
  }
}
