import { WaltideError } from '../../errors.ts';
import { parseDate, parseTimestamp } from '../../event/temporal.ts';

/*
 * Dates and timestamps as the integers that DuckDB stores: its infinities are the outermost ones. Everything is exact
 * or null; nothing is rounded or wrapped.
 */

const INFINITY_DAYS = 2147483647;
const INFINITY_MICROS = 9223372036854775807n;
/** From 290309-12-22 BC to 294247-01-10 04:00:54.775806; PostgreSQL goes on to the year 294276. */
const MICROS_MIN = -9223372022400000000n;
const MICROS_MAX = INFINITY_MICROS - 1n;

/** Days since 1970-01-01; null where the text is no date of PostgreSQL or DuckDB has no such day. */
export function anyDateDays(text: string): number | null {
  const days = readOrNull(parseDate, text);
  if (days === null) return null;
  if (typeof days === 'string') return days === 'infinity' ? INFINITY_DAYS : -INFINITY_DAYS;
  return Math.abs(days) < INFINITY_DAYS ? days : null;
}

/** Microseconds since 1970-01-01 UTC; null where the text is no timestamp of PostgreSQL or DuckDB has no such time. */
export function anyTimestampMicros(text: string): bigint | null {
  const micros = readOrNull(parseTimestamp, text);
  if (micros === null) return null;
  if (typeof micros === 'string') return micros === 'infinity' ? INFINITY_MICROS : -INFINITY_MICROS;
  return micros >= MICROS_MIN && micros <= MICROS_MAX ? micros : null;
}

function readOrNull<T>(read: (text: string) => T, text: string): T | null {
  try {
    return read(text);
  } catch (error) {
    if (error instanceof WaltideError) return null;
    throw error;
  }
}
