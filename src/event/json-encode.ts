import { WaltideError } from '../errors.ts';
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
import { DAY_US, dateDays, timeMicros, timestampMicros, timestampMicrosExact } from './temporal.ts';

/**
 * PostgreSQL's text → JSON, bytes to bytes. Each function reads [start, end) of `src`, writes at `at` of `buf` and
 * returns where it stopped; the caller has reserved `sizeBound` bytes. No string or object is made per value, apart
 * from timestamps outside the range of exact doubles.
 */

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const ZERO = 0x30;

/** How many bytes each byte grows by inside a JSON string: 0 for most, 1 for `\"`, 5 for `\u001f`. */
const GROWTH = new Uint8Array(256);
/** The letter after the backslash, where JSON has a short escape. */
const SHORT = new Uint8Array(256);
for (let byte = 0; byte < 0x20; byte++) GROWTH[byte] = 5;
for (const [char, letter] of ['""', '\\\\', '\bb', '\tt', '\nn', '\ff', '\rr']) {
  const byte = char!.charCodeAt(0);
  GROWTH[byte] = 1;
  SHORT[byte] = letter!.charCodeAt(0);
}
const HEX = Buffer.from('0123456789abcdef');
const BASE64 = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/');
const TRUE = Buffer.from('true');
const FALSE = Buffer.from('false');
const NULL_LITERAL = Buffer.from('null');

/** Up to here a worst case is cheaper than looking. */
const SCAN_FROM_BYTES = 512;

/** An upper bound for the JSON of the text in [start, end), of any form. */
export function sizeBound(form: Form, src: Uint8Array, start: number, end: number): number {
  const length = end - start;
  if (length <= SCAN_FROM_BYTES) return 6 * length + 32;
  let bound = length + 32;
  for (let i = start; i < end; i++) bound += GROWTH[src[i]!]!;
  // One-letter elements (`t,` → `false,`) at most triple.
  return form === ARRAY ? bound + 2 * length : bound;
}

/** Copies without a call into the runtime, which pays only from some 50 bytes on. */
export function writeBytes(buf: Uint8Array, at: number, bytes: Uint8Array): number {
  const { length } = bytes;
  if (length > 48) buf.set(bytes, at);
  else for (let i = 0; i < length; i++) buf[at + i] = bytes[i]!;
  return at + length;
}

/** Writes a whole number from 0 to 2^53 - 1 in decimal. */
export function writeUnsigned(buf: Uint8Array, at: number, value: number): number {
  if (value > 999_999_999) {
    const high = Math.floor(value / 100_000_000);
    const start = writeUnsigned(buf, at, high);
    return writeDigits(buf, start, start + 8, value - high * 100_000_000);
  }
  let stop = at + 1;
  for (let limit = 10; value >= limit; limit *= 10) stop++;
  return writeDigits(buf, at, stop, value);
}

function writeDigits(buf: Uint8Array, start: number, stop: number, value: number): number {
  let rest = value | 0;
  for (let i = stop - 1; i >= start; i--) {
    const next = (rest / 10) | 0;
    buf[i] = ZERO + rest - next * 10;
    rest = next;
  }
  return stop;
}

function writeSigned(buf: Uint8Array, at: number, value: number): number {
  if (value >= 0) return writeUnsigned(buf, at, value);
  buf[at] = 0x2d;
  return writeUnsigned(buf, at + 1, -value);
}

export function writeString(buf: Uint8Array, at: number, src: Uint8Array, start: number, end: number): number {
  let to = at;
  buf[to++] = QUOTE;
  for (let i = start; i < end; i++) {
    const byte = src[i]!;
    if (GROWTH[byte] === 0) buf[to++] = byte;
    else {
      buf[to++] = BACKSLASH;
      const letter = SHORT[byte]!;
      if (letter !== 0) buf[to++] = letter;
      else {
        buf[to] = 0x75;
        buf[to + 1] = ZERO;
        buf[to + 2] = ZERO;
        buf[to + 3] = HEX[byte >> 4]!;
        buf[to + 4] = HEX[byte & 15]!;
        to += 5;
      }
    }
  }
  buf[to] = QUOTE;
  return to + 1;
}

function skipDigits(src: Uint8Array, start: number, end: number): number {
  let at = start;
  while (at < end && (src[at]! - ZERO) >>> 0 <= 9) at++;
  return at;
}

/** True where the text is a number literal of JSON (RFC 8259, section 6), to be copied as it is. */
function isNumber(src: Uint8Array, start: number, end: number): boolean {
  const first = src[start] === 0x2d ? start + 1 : start;
  let at = skipDigits(src, first, end);
  if (at === first || (src[first] === ZERO && at > first + 1)) return false;
  if (at < end && src[at] === 0x2e) {
    const fraction = at + 1;
    at = skipDigits(src, fraction, end);
    if (at === fraction) return false;
  }
  if (at < end && (src[at]! | 0x20) === 0x65) {
    const exponent = src[at + 1] === 0x2b || src[at + 1] === 0x2d ? at + 2 : at + 1;
    at = skipDigits(src, exponent, end);
    if (at === exponent) return false;
  }
  return at === end;
}

function writeTimestampText(buf: Uint8Array, at: number, src: Uint8Array, start: number, end: number): number {
  // A zone has no place in a timestamp without one, and would not come back.
  if (src[end - 3] === 0x2b) return writeString(buf, at, src, start, end);
  const micros = timestampMicros(src, start, end);
  if (!Number.isNaN(micros)) return writeSigned(buf, at, micros);
  const exact = timestampMicrosExact(src, start, end);
  if (exact === null) return writeString(buf, at, src, start, end);
  const digits = exact.toString();
  for (let i = 0; i < digits.length; i++) buf[at + i] = digits.charCodeAt(i);
  return at + digits.length;
}

/** `2026-11-22 03:00:00.5+00` → `"2026-11-22T03:00:00.5Z"`; whatever is not of that form stays as it is. */
function writeZoned(buf: Uint8Array, at: number, src: Uint8Array, start: number, end: number): number {
  const zone = end - 3;
  const usual =
    src[zone] === 0x2b &&
    src[zone + 1] === ZERO &&
    src[zone + 2] === ZERO &&
    src[start + 10] === 0x20 &&
    timeMicros(src, start + 11, zone) < DAY_US &&
    !Number.isNaN(dateDays(src, start, start + 10));
  if (!usual) return writeString(buf, at, src, start, end);
  let to = at;
  buf[to++] = QUOTE;
  for (let i = start; i < zone; i++) buf[to++] = src[i]!;
  buf[at + 11] = 0x54;
  buf[to] = 0x5a;
  buf[to + 1] = QUOTE;
  return to + 2;
}

function hexDigit(byte: number): number {
  const digit = byte - ZERO;
  if (digit >>> 0 <= 9) return digit;
  const letter = byte - 0x61;
  return letter >>> 0 <= 5 ? letter + 10 : -1;
}

function isHex(src: Uint8Array, start: number, end: number): boolean {
  if (((end - start) & 1) !== 0 || src[start] !== BACKSLASH || src[start + 1] !== 0x78) return false;
  for (let i = start + 2; i < end; i++) if (hexDigit(src[i]!) < 0) return false;
  return true;
}

/** `\x6162` → `"YWI="`. A backslash is not in base64's alphabet, so other text that begins with one can be told apart. */
function writeBase64(buf: Uint8Array, at: number, src: Uint8Array, start: number, end: number): number {
  if (!isHex(src, start, end)) {
    if (src[start] === BACKSLASH) return writeString(buf, at, src, start, end);
    throw new WaltideError(
      'PROTOCOL',
      'A bytea value is not in hex form',
      'Report this: the session setting bytea_output is not in force.',
    );
  }
  let to = at;
  buf[to++] = QUOTE;
  for (let i = start + 2; i < end; i += 6) {
    const count = Math.min(6, end - i) >> 1;
    let bits = 0;
    for (let k = 0; k < 3; k++) {
      bits = (bits << 8) | (k < count ? (hexDigit(src[i + 2 * k]!) << 4) | hexDigit(src[i + 2 * k + 1]!) : 0);
    }
    buf[to] = BASE64[bits >> 18]!;
    buf[to + 1] = BASE64[(bits >> 12) & 63]!;
    buf[to + 2] = count > 1 ? BASE64[(bits >> 6) & 63]! : 0x3d;
    buf[to + 3] = count > 2 ? BASE64[bits & 63]! : 0x3d;
    to += 4;
  }
  buf[to] = QUOTE;
  return to + 1;
}

/** Any form but ARRAY. */
function writeScalar(buf: Uint8Array, at: number, form: Form, src: Uint8Array, start: number, end: number): number {
  let number = Number.NaN;
  switch (form) {
    case NUMBER: {
      if (!isNumber(src, start, end)) break;
      for (let i = start; i < end; i++) buf[at + i - start] = src[i]!;
      return at + end - start;
    }
    case BOOLEAN:
      if (end - start !== 1 || (src[start] !== 0x74 && src[start] !== 0x66)) break;
      return writeBytes(buf, at, src[start] === 0x74 ? TRUE : FALSE);
    case DATE:
      number = dateDays(src, start, end);
      break;
    case TIME:
      number = timeMicros(src, start, end);
      break;
    case TIMESTAMP:
      return writeTimestampText(buf, at, src, start, end);
    case TIMESTAMPTZ:
      return writeZoned(buf, at, src, start, end);
    case BYTES:
      return writeBase64(buf, at, src, start, end);
  }
  return Number.isNaN(number) ? writeString(buf, at, src, start, end) : writeSigned(buf, at, number);
}

/** One column's value: the text in [start, end) of `src` as the JSON of the column's form. */
export function writeColumn(
  buf: Uint8Array,
  at: number,
  column: ColumnForm,
  src: Uint8Array,
  start: number,
  end: number,
): number {
  if (column.form !== ARRAY) return writeScalar(buf, at, column.form, src, start, end);
  const stop = writeArray(buf, at, column, src, start, end);
  return stop < 0 ? writeString(buf, at, src, start, end) : stop;
}

/** Why an element is between quotes; array_out quotes these and no others. */
function forcesQuotes(byte: number, delimiter: number): boolean {
  return (
    byte === QUOTE ||
    byte === BACKSLASH ||
    byte === 0x7b ||
    byte === 0x7d ||
    byte === delimiter ||
    byte === 0x20 ||
    (byte >= 0x09 && byte <= 0x0d)
  );
}

function isNullWord(src: Uint8Array, start: number, end: number): boolean {
  return (
    end - start === 4 &&
    (src[start]! | 0x20) === 0x6e &&
    (src[start + 1]! | 0x20) === 0x75 &&
    (src[start + 2]! | 0x20) === 0x6c &&
    (src[start + 3]! | 0x20) === 0x6c
  );
}

function isUpperNull(src: Uint8Array, at: number): boolean {
  return src[at] === 0x4e && src[at + 1] === 0x55 && src[at + 2] === 0x4c && src[at + 3] === 0x4c;
}

/** True where array_out puts this element's text between quotes. */
export function elementNeedsQuotes(src: Uint8Array, start: number, end: number, delimiter: number): boolean {
  if (start === end || isNullWord(src, start, end)) return true;
  for (let i = start; i < end; i++) if (forcesQuotes(src[i]!, delimiter)) return true;
  return false;
}

/** Holds an element without its backslashes; grows to the longest ever seen, one element at a time. */
let scratch = Buffer.allocUnsafe(1024);

/** An array of one dimension from 1, quoted just as array_out does; -1 for any other text. */
function writeArray(
  buf: Uint8Array,
  at: number,
  column: ColumnForm,
  src: Uint8Array,
  start: number,
  end: number,
): number {
  const { delimiter, element } = column;
  if (end - start < 2 || src[start] !== 0x7b || src[end - 1] !== 0x7d) return -1;
  let to = at;
  buf[to++] = 0x5b;
  let i = start + 1;
  const stop = end - 1;
  while (i < stop) {
    const next = src[i] === QUOTE ? quotedEnd(src, i + 1, stop) : bareEnd(src, i, stop, delimiter);
    if (next < 0) return -1;
    if (src[i] !== QUOTE) {
      if (!isNullWord(src, i, next)) to = writeScalar(buf, to, element, src, i, next);
      else if (isUpperNull(src, i)) to = writeBytes(buf, to, NULL_LITERAL);
      else return -1;
      i = next;
    } else {
      const length = unescapeElement(src, i + 1, next);
      if (length < 0 || !elementNeedsQuotes(scratch, 0, length, delimiter)) return -1;
      to = writeScalar(buf, to, element, scratch, 0, length);
      i = next + 1;
    }
    if (i === stop) break;
    if (src[i] !== delimiter || i + 1 === stop) return -1;
    buf[to++] = 0x2c;
    i++;
  }
  buf[to] = 0x5d;
  return to + 1;
}

/** Where the closing quote of an element is; -1 where there is none. */
function quotedEnd(src: Uint8Array, start: number, stop: number): number {
  for (let i = start; i < stop; i++) {
    if (src[i] === BACKSLASH) i++;
    else if (src[i] === QUOTE) return i;
  }
  return -1;
}

/** Where an element without quotes ends; -1 where it is empty, a nested array or should have had quotes. */
function bareEnd(src: Uint8Array, start: number, stop: number, delimiter: number): number {
  let i = start;
  for (; i < stop && src[i] !== delimiter; i++) if (forcesQuotes(src[i]!, delimiter)) return -1;
  return i === start ? -1 : i;
}

/** Puts the element in [start, end) into `scratch` and returns its length; -1 for an escape array_out never writes. */
function unescapeElement(src: Uint8Array, start: number, end: number): number {
  if (scratch.length < end - start) scratch = Buffer.allocUnsafe(2 * (end - start));
  let length = 0;
  for (let i = start; i < end; i++) {
    let byte = src[i]!;
    if (byte === BACKSLASH) {
      byte = src[++i]!;
      if (byte !== QUOTE && byte !== BACKSLASH) return -1;
    }
    scratch[length++] = byte;
  }
  return length;
}
