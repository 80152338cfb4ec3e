import { WaltideError } from '../errors.ts';

/** PostgreSQL's text form of arrays (manual, "Arrays", section "Array Input and Output Syntax"). */

/** A leaf's text, null for NULL, or the next dimension. */
export type ArrayItem = string | null | ArrayItem[];

export interface ArrayText {
  /** Index of the first element, per dimension; 1 unless the array was given other bounds. */
  lowerBounds: number[];
  /** Length per dimension, outermost first; empty for the empty array. */
  dims: number[];
  elements: ArrayItem[];
}

/** MAXDIM of PostgreSQL. Bounds the recursion below. */
const DIMENSIONS_MAX = 6;
const DIMENSION = /\[([+-]?\d+):([+-]?\d+)\]/y;

class ArrayReader {
  readonly text: string;
  readonly delimiter: string;
  readonly dims: number[] = [];
  at = 0;

  constructor(text: string, delimiter: string) {
    this.text = text;
    this.delimiter = delimiter;
  }

  fail(): never {
    throw new WaltideError(
      'PROTOCOL',
      `Not the text of an array at character ${this.at}: ${this.text.slice(0, 100)}`,
      'Report this with the column type and the PostgreSQL version.',
    );
  }

  lowerBounds(): number[] {
    const bounds: number[] = [];
    while (this.text[this.at] === '[') {
      DIMENSION.lastIndex = this.at;
      const match = DIMENSION.exec(this.text);
      if (!match) this.fail();
      bounds.push(Number(match[1]));
      this.at = DIMENSION.lastIndex;
    }
    if (bounds.length > 0 && this.text[this.at++] !== '=') this.fail();
    return bounds;
  }

  items(depth: number): ArrayItem[] {
    if (depth >= DIMENSIONS_MAX || this.text[this.at] !== '{') this.fail();
    this.at++;
    const items: ArrayItem[] = [];
    if (this.text[this.at] === '}') {
      this.at++;
      if (depth > 0) this.fail();
      return items;
    }
    for (;;) {
      items.push(this.item(depth));
      const next = this.text[this.at++];
      if (next === '}') break;
      if (next !== this.delimiter) this.fail();
    }
    // Every branch of one dimension has the same length, else the text is not PostgreSQL's.
    if (this.dims[depth] === undefined) this.dims[depth] = items.length;
    else if (this.dims[depth] !== items.length) this.fail();
    return items;
  }

  item(depth: number): ArrayItem {
    const first = this.text[this.at];
    if (first === '{') return this.items(depth + 1);
    if (this.dims[depth + 1] !== undefined) this.fail();
    if (first === '"') return this.quoted();
    const start = this.at;
    for (; this.at < this.text.length; this.at++) {
      const char = this.text[this.at]!;
      if (char === this.delimiter || char === '}') break;
      if (char === '{' || char === '"' || char === '\\') this.fail();
    }
    const text = this.text.slice(start, this.at);
    if (text === '') this.fail();
    return text === 'NULL' ? null : text;
  }

  quoted(): string {
    let text = '';
    let start = ++this.at;
    for (; this.at < this.text.length; this.at++) {
      const char = this.text[this.at];
      if (char === '"') return text + this.text.slice(start, this.at++);
      if (char === '\\') {
        text += this.text.slice(start, this.at++);
        start = this.at;
      }
    }
    this.fail();
  }
}

/**
 * Reads what `array_out` prints. `delimiter` is the type's (`,`, but `;` for box). Throws PROTOCOL on anything else,
 * such as the text of int2vector, which is no array.
 */
export function parseArray(text: string, delimiter = ','): ArrayText {
  const reader = new ArrayReader(text, delimiter);
  const bounds = reader.lowerBounds();
  const elements = reader.items(0);
  const dims = elements.length === 0 ? [] : reader.dims;
  if (reader.at !== text.length || (bounds.length > 0 && bounds.length !== dims.length)) reader.fail();
  return { lowerBounds: bounds.length > 0 ? bounds : dims.map(() => 1), dims, elements };
}

/** True where `array_out` puts an element's text between quotes. */
export function needsQuotes(text: string, delimiter: string): boolean {
  return text === '' || /^null$/i.test(text) || /["\\{} \t\n\v\f\r]/.test(text) || text.includes(delimiter);
}

function formatItem(item: ArrayItem, delimiter: string): string {
  if (item === null) return 'NULL';
  if (typeof item !== 'string') return `{${item.map((inner) => formatItem(inner, delimiter)).join(delimiter)}}`;
  return needsQuotes(item, delimiter) ? `"${item.replace(/["\\]/g, '\\$&')}"` : item;
}

/** Writes exactly what `array_out` prints for this array. Bounds appear only where one of them is not 1. */
export function formatArray(array: ArrayText, delimiter = ','): string {
  const { lowerBounds, dims } = array;
  const shifted = lowerBounds.some((bound) => bound !== 1);
  const bounds = shifted ? `${lowerBounds.map((low, i) => `[${low}:${low + dims[i]! - 1}]`).join('')}=` : '';
  return bounds + formatItem(array.elements, delimiter);
}
