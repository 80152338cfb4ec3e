import { WaltideError } from '../errors.ts';

/**
 * PostgreSQL's date and time texts (manual, "Date/Time Types", output style ISO with TimeZone UTC) ↔ numbers since
 * the Unix epoch, in the proleptic Gregorian calendar that PostgreSQL itself uses.
 *
 * Two roads: the functions on bytes take only what PostgreSQL prints for years 0001 to 9999, allocate nothing and
 * answer NaN for all else; the functions on strings take every value PostgreSQL can print, and are exact.
 */

export const DAY_US = 86_400_000_000;
/** What `parseDate` and `parseTimestamp` give for the two values that are no point in time. */
export type Infinite = 'infinity' | '-infinity';

const MINUS = 0x2d;
const PLUS = 0x2b;
const COLON = 0x3a;
const DOT = 0x2e;
const SPACE = 0x20;
const ZERO = 0x30;

/** The number of two digits at `at`, or -1 where they are no digits. */
function twoDigits(buf: Uint8Array, at: number): number {
  const high = buf[at]! - ZERO;
  const low = buf[at + 1]! - ZERO;
  return high >>> 0 > 9 || low >>> 0 > 9 ? -1 : high * 10 + low;
}

function daysInMonth(year: number, month: number): number {
  if (month === 2) return (year % 4 === 0 && year % 100 !== 0) || year % 400 === 0 ? 29 : 28;
  return month === 4 || month === 6 || month === 9 || month === 11 ? 30 : 31;
}

/** Days since 1970-01-01; year 0 is 1 BC. Eras of 400 years that begin in March, so that the leap day comes last. */
function daysOf(year: number, month: number, day: number): number {
  const y = month <= 2 ? year - 1 : year;
  const era = Math.floor(y / 400);
  const yearOfEra = y - era * 400;
  const dayOfYear = Math.floor((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5) + day - 1;
  const dayOfEra = yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear;
  return era * 146_097 + dayOfEra - 719_468;
}

/** The inverse of `daysOf`, packed into one number so that nothing is allocated: (year * 16 + month) * 32 + day. */
function civilOf(days: number): number {
  const z = days + 719_468;
  const era = Math.floor(z / 146_097);
  const dayOfEra = z - era * 146_097;
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365,
  );
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const shifted = Math.floor((5 * dayOfYear + 2) / 153);
  const day = dayOfYear - Math.floor((153 * shifted + 2) / 5) + 1;
  const month = shifted < 10 ? shifted + 3 : shifted - 9;
  const year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0);
  return (year * 16 + month) * 32 + day;
}

/** First and last day that are written with four digits and no suffix. */
const FIRST_DAY = daysOf(1, 1, 1);
const LAST_DAY = daysOf(9999, 12, 31);

/** Days since the epoch of exactly `YYYY-MM-DD` (a real day, year 0001 to 9999); NaN for anything else. */
export function dateDays(buf: Uint8Array, start: number, end: number): number {
  if (end - start !== 10 || buf[start + 4] !== MINUS || buf[start + 7] !== MINUS) return Number.NaN;
  const century = twoDigits(buf, start);
  const rest = twoDigits(buf, start + 2);
  const month = twoDigits(buf, start + 5);
  const day = twoDigits(buf, start + 8);
  if (century < 0 || rest < 0 || month < 1 || month > 12 || day < 1) return Number.NaN;
  const year = century * 100 + rest;
  if (year === 0 || day > daysInMonth(year, month)) return Number.NaN;
  return daysOf(year, month, day);
}

/** Microseconds of the fraction in [start, end): one to six digits, the last not 0; -1 for anything else. */
function fractionMicros(buf: Uint8Array, start: number, end: number): number {
  const width = end - start;
  if (width < 1 || width > 6 || buf[end - 1] === ZERO) return -1;
  let micros = 0;
  for (let i = start; i < end; i++) {
    const digit = buf[i]! - ZERO;
    if (digit >>> 0 > 9) return -1;
    micros = micros * 10 + digit;
  }
  for (let i = width; i < 6; i++) micros *= 10;
  return micros;
}

/**
 * Microseconds since midnight of exactly `HH:MM:SS[.ffffff]` as PostgreSQL prints it, that is without trailing
 * zeros, up to and including `24:00:00`; NaN for anything else.
 */
export function timeMicros(buf: Uint8Array, start: number, end: number): number {
  const length = end - start;
  if (length < 8 || buf[start + 2] !== COLON || buf[start + 5] !== COLON) return Number.NaN;
  const hour = twoDigits(buf, start);
  const minute = twoDigits(buf, start + 3);
  const second = twoDigits(buf, start + 6);
  if (hour < 0 || hour > 24 || minute < 0 || minute > 59 || second < 0 || second > 59) return Number.NaN;
  let micros = (hour * 3600 + minute * 60 + second) * 1_000_000;
  if (length > 8) {
    if (buf[start + 8] !== DOT) return Number.NaN;
    const fraction = fractionMicros(buf, start + 9, end);
    if (fraction < 0) return Number.NaN;
    micros += fraction;
  }
  return micros > DAY_US ? Number.NaN : micros;
}

/** Where the time of a timestamp ends: before the `+00` of a timestamptz. */
function timeEnd(buf: Uint8Array, end: number): number {
  return buf[end - 3] === PLUS && buf[end - 2] === ZERO && buf[end - 1] === ZERO ? end - 3 : end;
}

/**
 * Microseconds since the epoch of exactly `YYYY-MM-DD HH:MM:SS[.ffffff][+00]`. NaN for anything else, and where a
 * double cannot hold the number exactly (before 1684 and after 2255): see `timestampMicrosExact`.
 */
export function timestampMicros(buf: Uint8Array, start: number, end: number): number {
  const stop = timeEnd(buf, end);
  if (buf[start + 10] !== SPACE) return Number.NaN;
  const time = timeMicros(buf, start + 11, stop);
  const micros = dateDays(buf, start, start + 10) * DAY_US + time;
  return time < DAY_US && Number.isSafeInteger(micros) ? micros : Number.NaN;
}

/** As `timestampMicros`, for all years from 0001 to 9999; null for anything else. */
export function timestampMicrosExact(buf: Uint8Array, start: number, end: number): bigint | null {
  if (buf[start + 10] !== SPACE) return null;
  const days = dateDays(buf, start, start + 10);
  const time = timeMicros(buf, start + 11, timeEnd(buf, end));
  if (Number.isNaN(days) || !(time < DAY_US)) return null;
  return BigInt(days) * BigInt(DAY_US) + BigInt(time);
}

function putTwo(buf: Uint8Array, at: number, value: number): void {
  const tens = (value / 10) | 0;
  buf[at] = ZERO + tens;
  buf[at + 1] = ZERO + value - tens * 10;
}

function putAscii(buf: Uint8Array, at: number, text: string): number {
  for (let i = 0; i < text.length; i++) buf[at + i] = text.charCodeAt(i);
  return at + text.length;
}

/** Writes the text of `dateDays`' number (16 bytes at most) and returns where it ends. */
export function writeDate(buf: Uint8Array, at: number, days: number): number {
  if (!(days >= FIRST_DAY && days <= LAST_DAY)) return putAscii(buf, at, formatDate(days));
  const civil = civilOf(days);
  const year = civil >> 9;
  const century = (year / 100) | 0;
  putTwo(buf, at, century);
  putTwo(buf, at + 2, year - century * 100);
  buf[at + 4] = MINUS;
  putTwo(buf, at + 5, (civil >> 5) & 15);
  buf[at + 7] = MINUS;
  putTwo(buf, at + 8, civil & 31);
  return at + 10;
}

/** Writes the text of `timeMicros`' number (15 bytes at most) and returns where it ends. */
export function writeTime(buf: Uint8Array, at: number, micros: number): number {
  const seconds = Math.floor(micros / 1_000_000);
  let fraction = micros - seconds * 1_000_000;
  const hour = (seconds / 3600) | 0;
  const minute = ((seconds - hour * 3600) / 60) | 0;
  putTwo(buf, at, hour);
  buf[at + 2] = COLON;
  putTwo(buf, at + 3, minute);
  buf[at + 5] = COLON;
  putTwo(buf, at + 6, seconds - hour * 3600 - minute * 60);
  if (fraction === 0) return at + 8;
  buf[at + 8] = DOT;
  for (let i = 14; i > 8; i--) {
    const rest = (fraction / 10) | 0;
    buf[at + i] = ZERO + fraction - rest * 10;
    fraction = rest;
  }
  let stop = at + 15;
  while (buf[stop - 1] === ZERO) stop--;
  return stop;
}

/** Writes the text of `timestampMicros`' number without zone (32 bytes at most) and returns where it ends. */
export function writeTimestamp(buf: Uint8Array, at: number, micros: number): number {
  const days = Math.floor(micros / DAY_US);
  if (!(days >= FIRST_DAY && days <= LAST_DAY)) return putAscii(buf, at, formatTimestamp(BigInt(micros)));
  writeDate(buf, at, days);
  buf[at + 10] = SPACE;
  return writeTime(buf, at + 11, micros - days * DAY_US);
}

function pad(value: number, width: number): string {
  return String(value).padStart(width, '0');
}

function formatDay(days: number): { text: string; suffix: string } {
  const civil = civilOf(days);
  const day = ((civil % 32) + 32) % 32;
  const month = ((Math.floor(civil / 32) % 16) + 16) % 16;
  const year = Math.floor(civil / 512);
  const text = `${pad(year > 0 ? year : 1 - year, 4)}-${pad(month, 2)}-${pad(day, 2)}`;
  return { text, suffix: year > 0 ? '' : ' BC' };
}

/** PostgreSQL's text of a date, of any year. */
export function formatDate(days: number): string {
  const { text, suffix } = formatDay(days);
  return text + suffix;
}

/** PostgreSQL's text of a time of day. */
export function formatTime(micros: number): string {
  const buf = new Uint8Array(16);
  return String.fromCharCode(...buf.subarray(0, writeTime(buf, 0, micros)));
}

/** PostgreSQL's text of a timestamp of any year; `zone` is '' for timestamp and '+00' for timestamptz. */
export function formatTimestamp(micros: bigint, zone: '' | '+00' = ''): string {
  const day = BigInt(DAY_US);
  let days = micros / day;
  if (days * day > micros) days -= 1n;
  const { text, suffix } = formatDay(Number(days));
  return `${text} ${formatTime(Number(micros - days * day))}${zone}${suffix}`;
}

function unreadable(kind: string, text: string): WaltideError {
  return new WaltideError(
    'PROTOCOL',
    `"${text}" is not a ${kind} as PostgreSQL prints it in DateStyle ISO`,
    'Report this with the column type and the PostgreSQL version.',
  );
}

const DATE = /^(\d{4,})-(\d\d)-(\d\d)( BC)?$/;
const TIMESTAMP =
  /^(\d{4,})-(\d\d)-(\d\d) (\d\d:\d\d:\d\d(?:\.\d{1,6})?)(?:([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?)?( BC)?$/;
const TIME = /^(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?$/;

/** Days since the epoch of any date that PostgreSQL prints. Throws PROTOCOL on anything else. */
export function parseDate(text: string): number | Infinite {
  if (text === 'infinity' || text === '-infinity') return text;
  const match = DATE.exec(text);
  if (!match) throw unreadable('date', text);
  const year = match[4] ? 1 - Number(match[1]) : Number(match[1]);
  return daysOf(year, Number(match[2]), Number(match[3]));
}

/** Microseconds since midnight. Throws PROTOCOL on anything but a time without zone. */
export function parseTime(text: string): bigint {
  const match = TIME.exec(text);
  if (!match) throw unreadable('time', text);
  const seconds = Number(match[1]) * 3600 + Number(match[2]) * 60 + Number(match[3]);
  return BigInt(seconds * 1_000_000 + Number((match[4] ?? '').padEnd(6, '0')));
}

/**
 * Microseconds since the epoch of any timestamp or timestamptz that PostgreSQL prints, whatever its offset from UTC.
 * Throws PROTOCOL on anything else.
 */
export function parseTimestamp(text: string): bigint | Infinite {
  if (text === 'infinity' || text === '-infinity') return text;
  const match = TIMESTAMP.exec(text);
  if (!match) throw unreadable('timestamp', text);
  const year = match[9] ? 1 - Number(match[1]) : Number(match[1]);
  const days = daysOf(year, Number(match[2]), Number(match[3]));
  const seconds = Number(match[6] ?? 0) * 3600 + Number(match[7] ?? 0) * 60 + Number(match[8] ?? 0);
  const offset = BigInt(match[5] === '-' ? -seconds : seconds) * 1_000_000n;
  return BigInt(days) * BigInt(DAY_US) + parseTime(match[4]!) - offset;
}
