import { ByteWriter } from './byte-writer.ts';
import { elementNeedsQuotes } from './json-encode.ts';
import {
  ARRAY,
  BOOLEAN,
  BYTES,
  type ColumnForm,
  DATE,
  type Form,
  NUMBER,
  TIME,
  TIMESTAMP,
  TIMESTAMPTZ,
} from './json-form.ts';
import type { JsonScanner } from './json-scanner.ts';
import { DAY_US, formatTimestamp, writeDate, writeTime, writeTimestamp } from './temporal.ts';

/** JSON → PostgreSQL's text, the exact inverse of json-encode.ts. Everything appends to a ByteWriter. */

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const NULL_LITERAL = Buffer.from('null');
const TRUE = Buffer.from('true');
const FALSE = Buffer.from('false');
const NULL_ELEMENT = Buffer.from('NULL');
const HEX = Buffer.from('0123456789abcdef');

/** What each base64 character stands for; 255 for all others. */
const SEXTETS = new Uint8Array(256).fill(255);
for (let i = 0; i < 64; i++) {
  SEXTETS['ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'.charCodeAt(i)] = i;
}

/** What a backslash and this letter stand for; 0 for letters that JSON does not know. */
const ESCAPES = new Uint8Array(256);
for (const [letter, char] of ['""', '\\\\', '//', 'b\b', 'f\f', 'n\n', 'r\r', 't\t']) {
  ESCAPES[letter!.charCodeAt(0)] = char!.charCodeAt(0);
}

/** No text of these forms that is written as a number is longer. */
const TEMPORAL_BYTES_MAX = 48;

function appendRaw(out: ByteWriter, bytes: Buffer, start: number, end: number): void {
  const to = out.reserve(end - start);
  let at = out.length;
  if (end - start > 96) bytes.copy(to, at, start, end);
  else for (let i = start; i < end; i++) to[at++] = bytes[i]!;
  out.length += end - start;
}

function hexUnit(scanner: JsonScanner, at: number): number {
  const text = scanner.bytes.toString('latin1', at, at + 4);
  if (!/^[0-9a-fA-F]{4}$/.test(text)) scanner.fail('four hex digits in the string before');
  return Number.parseInt(text, 16);
}

/** Appends the inside of a string, its escapes resolved to UTF-8. */
function appendUnescaped(out: ByteWriter, scanner: JsonScanner, start: number, end: number): void {
  const { bytes } = scanner;
  const to = out.reserve(end - start);
  let length = out.length;
  for (let i = start; i < end; i++) {
    const byte = bytes[i]!;
    if (byte !== BACKSLASH) {
      to[length++] = byte;
      continue;
    }
    const letter = bytes[++i]!;
    if (letter !== 0x75) {
      if (ESCAPES[letter] === 0) scanner.fail('only known escapes in the string before');
      to[length++] = ESCAPES[letter]!;
      continue;
    }
    let code = hexUnit(scanner, i + 1);
    i += 4;
    if (code >= 0xd800 && code <= 0xdbff && bytes[i + 1] === BACKSLASH && bytes[i + 2] === 0x75) {
      const low = hexUnit(scanner, i + 3);
      if (low >= 0xdc00 && low <= 0xdfff) {
        code = 0x10000 + ((code - 0xd800) << 10) + low - 0xdc00;
        i += 6;
      }
    }
    // Six bytes of escape make three of UTF-8 at most, twelve make four: never more than was reserved.
    length += to.write(String.fromCodePoint(code), length, 'utf8');
  }
  out.length = length;
}

/** `"YWI="` → `\x6162`. */
function appendHex(out: ByteWriter, scanner: JsonScanner, start: number, end: number): void {
  const { bytes } = scanner;
  let stop = end;
  while (stop > start && stop > end - 2 && bytes[stop - 1] === 0x3d) stop--;
  if ((end - start) % 4 !== 0 || (stop - start) % 4 === 1) scanner.fail('base64 in the string before');
  const to = out.reserve(2 + ((end - start) >> 2) * 6);
  let length = out.length;
  to[length++] = BACKSLASH;
  to[length++] = 0x78;
  let bits = 0;
  let count = 0;
  for (let i = start; i < stop; i++) {
    const sextet = SEXTETS[bytes[i]!]!;
    if (sextet === 255) scanner.fail('base64 in the string before');
    bits = ((bits << 6) | sextet) & 0xffff;
    count += 6;
    if (count >= 8) {
      count -= 8;
      const byte = (bits >> count) & 255;
      to[length++] = HEX[byte >> 4]!;
      to[length++] = HEX[byte & 15]!;
    }
  }
  out.length = length;
}

/** `2026-11-22T03:00:00.5Z` → `2026-11-22 03:00:00.5+00`. */
function appendZoned(out: ByteWriter, bytes: Buffer, start: number, end: number): void {
  const from = out.length;
  appendRaw(out, bytes, start, end - 1);
  out.bytes[from + 10] = 0x20;
  const to = out.reserve(3);
  to[out.length] = 0x2b;
  to[out.length + 1] = 0x30;
  to[out.length + 2] = 0x30;
  out.length += 3;
}

function appendString(out: ByteWriter, scanner: JsonScanner, form: Form): void {
  const start = scanner.at + 1;
  const escaped = scanner.string();
  const end = scanner.at - 1;
  const { bytes } = scanner;
  if (escaped) appendUnescaped(out, scanner, start, end);
  else if (form === BYTES) appendHex(out, scanner, start, end);
  else if (form === TIMESTAMPTZ && bytes[start + 10] === 0x54 && bytes[end - 1] === 0x5a) {
    appendZoned(out, bytes, start, end);
  } else appendRaw(out, bytes, start, end);
}

/** A date, time or timestamp from its number. */
function appendTemporal(out: ByteWriter, scanner: JsonScanner, form: Form, value: bigint): void {
  const to = out.reserve(TEMPORAL_BYTES_MAX);
  const number = Number(value);
  if (form === TIME && !(number >= 0 && number <= DAY_US)) scanner.fail('a time of day before');
  // The widest that PostgreSQL has: 294,276 AD for timestamps, 5,874,897 AD for dates.
  if (Math.abs(number) > (form === DATE ? 2_147_483_647 : 9.3e18)) scanner.fail('a date in range before');
  if (form === DATE) out.length = writeDate(to, out.length, number);
  else if (form === TIME) out.length = writeTime(to, out.length, number);
  else if (Number.isSafeInteger(number)) out.length = writeTimestamp(to, out.length, number);
  else out.length += to.write(formatTimestamp(value), out.length, 'latin1');
}

/** One value of any form but ARRAY; the scanner stands on its first byte. Null is the caller's. */
function appendScalar(out: ByteWriter, scanner: JsonScanner, form: Form): void {
  const { bytes, at } = scanner;
  const first = bytes[at];
  if (first === QUOTE) appendString(out, scanner, form);
  else if (form === NUMBER) {
    const start = scanner.number();
    appendRaw(out, bytes, start, scanner.at);
  } else if (form === BOOLEAN) {
    const value = scanner.take(TRUE);
    if (!value && !scanner.take(FALSE)) scanner.fail('true or false');
    out.reserve(1)[out.length++] = value ? 0x74 : 0x66;
  } else if (form === DATE || form === TIME || form === TIMESTAMP) {
    appendTemporal(out, scanner, form, scanner.integer());
  } else scanner.fail('a string');
}

/** Holds one element before it is known whether it needs quotes. */
const element = new ByteWriter(1024);

function appendElement(out: ByteWriter, scanner: JsonScanner, column: ColumnForm): void {
  if (scanner.take(NULL_LITERAL)) {
    out.push(NULL_ELEMENT);
    return;
  }
  element.length = 0;
  appendScalar(element, scanner, column.element);
  const { bytes, length } = element;
  const to = out.reserve(2 * length + 2);
  let at = out.length;
  const quotes = elementNeedsQuotes(bytes, 0, length, column.delimiter);
  if (quotes) to[at++] = QUOTE;
  for (let i = 0; i < length; i++) {
    const byte = bytes[i]!;
    if (byte === QUOTE || byte === BACKSLASH) to[at++] = BACKSLASH;
    to[at++] = byte;
  }
  if (quotes) to[at++] = QUOTE;
  out.length = at;
}

/** Appends PostgreSQL's text of the value that the scanner stands on, which is not null. */
export function appendColumn(out: ByteWriter, scanner: JsonScanner, column: ColumnForm): void {
  if (column.form !== ARRAY || scanner.peek() !== 0x5b) {
    appendScalar(out, scanner, column.form);
    return;
  }
  out.reserve(1)[out.length++] = 0x7b;
  if (scanner.enter(0x5b, 0x5d)) {
    for (let more = true; more; ) {
      scanner.peek();
      appendElement(out, scanner, column);
      more = scanner.more(0x5d);
      if (more) out.reserve(1)[out.length++] = column.delimiter;
    }
  }
  out.reserve(1)[out.length++] = 0x7d;
}

/** Takes a null, if one is next. */
export function takeNull(scanner: JsonScanner): boolean {
  return scanner.peek() === 0x6e && scanner.take(NULL_LITERAL);
}
