import { InvalidArgumentError } from 'commander';

const UNITS_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000 };

/** `500ms`, `30s`, `2m`, `1h`; a bare number is seconds. In milliseconds. */
export function durationMs(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)?$/.exec(text.trim());
  const ms = match ? Number(match[1]) * UNITS_MS[match[2] ?? 's']! : 0;
  if (!(ms >= 1) || ms > 24 * 3_600_000)
    throw new InvalidArgumentError('It must be a time such as 500ms, 30s or 2m, at most 24h.');
  return Math.round(ms);
}

/** `12h` or `90d`. In milliseconds. */
export function lifetimeMs(text: string): number {
  const match = /^(\d{1,5})\s*(h|d)$/.exec(text.trim());
  const ms = match ? Number(match[1]) * (match[2] === 'd' ? 24 : 1) * UNITS_MS.h! : 0;
  if (ms === 0) throw new InvalidArgumentError('It must be a time such as 12h or 90d.');
  return ms;
}

/** A whole number from 1. */
export function positiveInteger(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1 || !Number.isSafeInteger(value))
    throw new InvalidArgumentError('It must be a whole number from 1.');
  return value;
}

/** `a,b c`, given once or several times. */
export function patternList(text: string, previous: readonly string[] = []): string[] {
  return [...previous, ...text.split(/[,\s]+/).filter(Boolean)];
}
