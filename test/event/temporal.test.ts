import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  DAY_US,
  dateDays,
  formatDate,
  formatTime,
  formatTimestamp,
  parseDate,
  parseTime,
  parseTimestamp,
  timeMicros,
  timestampMicros,
  timestampMicrosExact,
  writeDate,
  writeTime,
  writeTimestamp,
} from '../../src/event/temporal.ts';

const onBytes = (read: (buf: Buffer, start: number, end: number) => number, text: string): number => {
  const buf = Buffer.from(`..${text}..`);
  return read(buf, 2, buf.length - 2);
};
const onText = (write: (buf: Buffer, at: number, value: number) => number, value: number): string => {
  const buf = Buffer.alloc(64);
  return buf.toString('latin1', 2, write(buf, 2, value));
};
const FIRST = -719_162;
const LAST = 2_932_896;

describe('dates', () => {
  it('agree with the calendar of JavaScript for every year from 0001 to 9999', () => {
    fc.assert(
      fc.property(fc.integer({ min: FIRST, max: LAST }), (days) => {
        const text = new Date(days * 86_400_000).toISOString().slice(0, 10);
        expect(onBytes(dateDays, text)).toBe(days);
        expect(onText(writeDate, days)).toBe(text);
        expect(formatDate(days)).toBe(text);
        expect(parseDate(text)).toBe(days);
      }),
    );
  });

  it.each(['infinity', '-infinity', '0044-03-15 BC', '10000-01-01', '0000-01-01', '2025-02-29', '2025-13-01', ''])(
    'are not taken on the fast road: %s',
    (text) => expect(onBytes(dateDays, text)).toBeNaN(),
  );

  it('are exact for all that PostgreSQL can hold', () => {
    expect(parseDate('4714-11-24 BC')).toBe(-2_440_588);
    expect(parseDate('0001-12-31 BC')).toBe(FIRST - 1);
    expect(parseDate('5874897-12-31')).toBe(2_145_042_905);
    expect(parseDate('-infinity')).toBe('-infinity');
    fc.assert(
      fc.property(fc.integer({ min: -2_440_588, max: 2_145_042_905 }), (days) => {
        expect(parseDate(formatDate(days))).toBe(days);
        expect(onText(writeDate, days)).toBe(formatDate(days));
      }),
    );
    expect(() => parseDate('yesterday')).toThrowError(expect.objectContaining({ code: 'PROTOCOL' }));
  });
});

describe('times', () => {
  it('come back exactly, up to and including 24:00:00', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: DAY_US }), (micros) => {
        const text = formatTime(micros);
        expect(onBytes(timeMicros, text)).toBe(micros);
        expect(onText(writeTime, micros)).toBe(text);
        expect(parseTime(text)).toBe(BigInt(micros));
      }),
    );
    expect(formatTime(DAY_US)).toBe('24:00:00');
    expect(formatTime(1)).toBe('00:00:00.000001');
    expect(formatTime(1_500_000)).toBe('00:00:01.5');
  });

  it.each(['24:00:00.1', '12:00', '12:00:00.', '12:00:00.10', '12:00:00.1234567', '12:60:00', '12:00:00+00'])(
    'that PostgreSQL does not print so are not taken: %s',
    (text) => expect(onBytes(timeMicros, text)).toBeNaN(),
  );
});

describe('timestamps', () => {
  it('come back exactly as far as doubles go', () => {
    const most = Number.MAX_SAFE_INTEGER;
    fc.assert(
      fc.property(fc.maxSafeInteger(), (micros) => {
        const text = formatTimestamp(BigInt(micros));
        expect(onBytes(timestampMicros, text)).toBe(micros);
        expect(onBytes(timestampMicros, `${text}+00`)).toBe(micros);
        expect(onText(writeTimestamp, micros)).toBe(text);
      }),
      { examples: [[most], [-most], [0], [-1]] },
    );
    expect(onBytes(timestampMicros, '9999-12-31 23:59:59')).toBeNaN();
    expect(onBytes(timestampMicros, '2026-11-22 03:00:00+01')).toBeNaN();
    expect(onBytes(timestampMicros, '2026-11-22 24:00:00')).toBeNaN();
    expect(onBytes(timestampMicros, 'infinity')).toBeNaN();
    expect(timestampMicrosExact(Buffer.from('9999-12-31 23:59:59'), 0, 19)).toBe(253_402_300_799_000_000n);
  });

  it('are exact for all that PostgreSQL can hold, in any zone', () => {
    // timestamp: 4713 BC to 294276 AD.
    fc.assert(
      fc.property(fc.bigInt({ min: -210_866_803_200_000_000n, max: 9_224_318_015_999_999_999n }), (micros) => {
        expect(parseTimestamp(formatTimestamp(micros))).toBe(micros);
        expect(parseTimestamp(formatTimestamp(micros, '+00'))).toBe(micros);
      }),
    );
    expect(formatTimestamp(-62_135_596_800_000_001n, '+00')).toBe('0001-12-31 23:59:59.999999+00 BC');
    expect(parseTimestamp('1970-01-01 05:30:00+05:30')).toBe(0n);
    expect(parseTimestamp('1969-12-31 16:07:02-07:52:58')).toBe(0n);
    expect(parseTimestamp('infinity')).toBe('infinity');
    expect(() => parseTimestamp('now')).toThrowError(expect.objectContaining({ code: 'PROTOCOL' }));
  });
});
