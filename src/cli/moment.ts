import { WaltideError } from '../errors.ts';
import { type Lsn, parseLsn } from '../event/lsn.ts';

const UNITS_S: Record<string, number> = {
  s: 1,
  sec: 1,
  second: 1,
  m: 60,
  min: 60,
  minute: 60,
  h: 3600,
  hour: 3600,
  d: 86_400,
  day: 86_400,
  w: 604_800,
  week: 604_800,
};
const PART = /(\d+(?:\.\d+)?)\s*(weeks?|days?|hours?|minutes?|mins?|seconds?|secs?|[wdhms])/y;
const DAY = /^\d{4}-\d\d-\d\d$/;
const ISO = /^(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(\.\d{1,9})?)?\s*(Z|z|[+-]\d\d(?::?\d\d)?)?$/;

/**
 * A point in time: ISO 8601 with a zone (`2026-11-22T18:00:00Z`, `2026-11-22 18:00+01:00`) or how long ago (`2h`,
 * `1h30m`, `30 minutes ago`). Throws USAGE for anything else, and for what lies in the future.
 */
export function parseMoment(text: string, option: string, now = Date.now()): Date {
  const trimmed = text.trim();
  const moment = fromIso(trimmed, option, now) ?? parseAge(trimmed, now);
  if (moment === null)
    throw usage(
      `${option}: "${text}" is not a time`,
      'Write 2026-11-22T18:00:00Z, or how long ago: 2h, 1h30m, "30 minutes ago".',
    );
  if (moment.getTime() > now)
    throw usage(`${option}: ${moment.toISOString()} lies in the future`, `It is ${new Date(now).toISOString()} now.`);
  return moment;
}

/** An LSN as PostgreSQL prints it. Throws USAGE for anything else. */
export function parseLsnOption(text: string, option: string): Lsn {
  try {
    return parseLsn(text.trim());
  } catch (error) {
    throw usage(`${option}: ${(error as Error).message}`, 'Write it as PostgreSQL prints it, such as 16/B374D848.');
  }
}

/** What holds a slash is an LSN, anything else a time. */
export function parseLsnOrMoment(text: string, option: string): { lsn: Lsn } | { time: Date } {
  return text.includes('/') ? { lsn: parseLsnOption(text, option) } : { time: parseMoment(text, option) };
}

function fromIso(text: string, option: string, now: number): Date | null {
  if (DAY.test(text)) throw noTime(text, option, now);
  const match = ISO.exec(text);
  if (!match) return null;
  const [, year, month, day, hour, minute, second = '0', fraction = '', zone] = match;
  if (zone === undefined)
    throw usage(`${option}: "${text}" has no time zone`, `Add Z for UTC, or an offset: ${text}Z, ${text}+01:00.`);
  const ms = Math.floor(Number(`0${fraction}`) * 1000);
  const local = new Date(Date.UTC(+year!, +month! - 1, +day!, +hour!, +minute!, +second, ms));
  // The 30th of February would silently become the 2nd of March.
  const same =
    local.getUTCMonth() + 1 === +month! &&
    local.getUTCDate() === +day! &&
    local.getUTCHours() === +hour! &&
    local.getUTCMinutes() === +minute!;
  if (!same) throw usage(`${option}: there is no time "${text}"`, 'Check day, hour and minute.');
  const sign = zone.startsWith('-') ? -1 : 1;
  const digits = zone.replace(/\D/g, '');
  const offsetMinutes = digits === '' ? 0 : sign * (Number(digits.slice(0, 2)) * 60 + Number(digits.slice(2) || 0));
  return new Date(local.getTime() - offsetMinutes * 60_000);
}

/** A day alone begins at another time in every zone. */
function noTime(day: string, option: string, now: number): WaltideError {
  const earliest = Date.parse(`${day}T00:00:00+14:00`);
  if (Number.isNaN(earliest)) return usage(`${option}: there is no day "${day}"`, 'Check month and day.');
  if (earliest > now) return usage(`${option}: ${day} lies in the future`, `It is ${new Date(now).toISOString()} now.`);
  return usage(
    `${option}: "${day}" is a day and not a time`,
    `Write ${day}T00:00:00Z, or with the offset of your zone.`,
  );
}

/** How long ago (`2h`, `30 minutes ago`); null for anything else. */
export function parseAge(text: string, now = Date.now()): Date | null {
  const ages = text
    .trim()
    .toLowerCase()
    .replace(/\s*ago$/, '');
  let seconds = 0;
  let at = 0;
  while (at < ages.length) {
    PART.lastIndex = at;
    const match = PART.exec(ages);
    if (!match) return null;
    seconds += Number(match[1]) * (UNITS_S[match[2]!] ?? UNITS_S[match[2]!.replace(/s$/, '')]!);
    at = PART.lastIndex;
    while (ages[at] === ' ' || ages[at] === ',') at++;
  }
  const moment = at === 0 ? null : new Date(now - seconds * 1000);
  return moment && Number.isFinite(moment.getTime()) ? moment : null;
}

function usage(message: string, help: string): WaltideError {
  return new WaltideError('USAGE', message, help);
}
