import { describe, expect, it } from 'vitest';
import { parseLsnOrMoment, parseMoment } from '../../src/cli/moment.ts';

const NOW = Date.parse('2026-11-22T20:00:00Z');
const at = (text: string): string => parseMoment(text, '--since', NOW).toISOString();

describe('a point in time', () => {
  it.each([
    ['2026-11-22T18:00:00Z', '2026-11-22T18:00:00.000Z'],
    ['2026-11-22 18:00+01:00', '2026-11-22T17:00:00.000Z'],
    ['2026-11-22T12:00:00.123456-0530', '2026-11-22T17:30:00.123Z'],
    ['2026-11-22T18:00:00+02', '2026-11-22T16:00:00.000Z'],
    ['2h', '2026-11-22T18:00:00.000Z'],
    ['1h30m', '2026-11-22T18:30:00.000Z'],
    ['30 minutes ago', '2026-11-22T19:30:00.000Z'],
    ['1 day, 2 hours ago', '2026-11-21T18:00:00.000Z'],
    ['1.5h', '2026-11-22T18:30:00.000Z'],
    ['90s', '2026-11-22T19:58:30.000Z'],
    ['1w', '2026-11-15T20:00:00.000Z'],
  ])('%s', (text, expected) => {
    expect(at(text)).toBe(expected);
  });

  it.each([
    ['yesterday', /not a time/],
    ['', /not a time/],
    ['-2h', /not a time/],
    ['2', /not a time/],
    ['2h of rubbish', /not a time/],
    ['1e400h', /not a time/],
    ['2026-11-22', /a day and not a time/],
    ['2999-01-01', /lies in the future/],
    ['2026-13-01', /no day/],
    ['2026-11-22T18:00:00', /no time zone/],
    ['2026-02-30T18:00:00Z', /no time/],
    ['2026-11-22T25:00:00Z', /no time/],
    ['2026-11-22T20:00:01Z', /future/],
    [`${'9'.repeat(400)}d`, /not a time/],
  ])('refuses %s', (text, message) => {
    expect(() => at(text)).toThrow(message);
    try {
      at(text);
    } catch (error) {
      expect(error).toMatchObject({ code: 'USAGE' });
    }
  });

  it('tells an LSN from a time', () => {
    expect(parseLsnOrMoment('0/10', '--until')).toEqual({ lsn: 16n });
    expect(() => parseLsnOrMoment('0/xyz', '--until')).toThrow(/--until: "0\/xyz" is not an LSN/);
    expect(parseLsnOrMoment('2000-01-01T00:00:00Z', '--until')).toEqual({ time: new Date('2000-01-01T00:00:00Z') });
  });
});
