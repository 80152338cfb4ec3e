import { describe, expect, it } from 'vitest';
import { beginsAt, CATCH_UP_MAX, dueNow, nextAfter, nextLook, type Timing } from '../../src/control/occurrences.ts';

const timing = (changes: Partial<Timing>): Timing => ({
  name: 'test',
  cron: '0 2 * * *',
  timeZone: 'UTC',
  jitterMs: 0,
  catchUp: 'once',
  ...changes,
});
const at = (text: string): Date => new Date(text);
const iso = (date: Date | null): string | null => date?.toISOString().replace('.000Z', 'Z') ?? null;

describe('a schedule', () => {
  it('is due in its time zone, once a day also where clocks change', () => {
    const berlin = timing({ cron: '30 2 * * *', timeZone: 'Europe/Berlin' });
    const days = (from: string, count: number): (string | null)[] => {
      const found: (string | null)[] = [];
      let last: Date | null = at(from);
      for (let i = 0; i < count && last; i++) {
        last = nextAfter(berlin, last);
        found.push(iso(last));
      }
      return found;
    };
    expect(days('2026-10-23T12:00:00Z', 3)).toEqual([
      '2026-10-24T00:30:00Z',
      // Half past two comes twice in that night; the first counts.
      '2026-10-25T00:30:00Z',
      '2026-10-26T01:30:00Z',
    ]);
    // There is no half past two in that night.
    const spring = days('2026-03-28T12:00:00Z', 2);
    expect(spring[0]).toMatch(/^2026-03-29T01:/);
    expect(spring[1]).toBe('2026-03-30T00:30:00Z');
  });

  it('knows the older systems’ times', () => {
    expect(iso(nextAfter(timing({ cron: '0,30 * * * *' }), at('2026-11-26T10:00:00Z')))).toBe('2026-11-26T10:30:00Z');
    expect(iso(nextAfter(timing({ cron: '0 4 * * 0' }), at('2026-11-26T10:00:00Z')))).toBe('2026-11-29T04:00:00Z');
    expect(iso(nextAfter(timing({ cron: '0 0 30 2 *' }), at('2026-11-26T10:00:00Z')))).toBeNull();
  });

  it('takes each occurrence once, at its second', () => {
    const daily = timing({});
    const taken = at('2026-11-25T02:00:00Z');
    expect(dueNow(daily, taken, at('2026-11-26T01:59:59.999Z'), '')).toBeNull();
    expect(dueNow(daily, taken, at('2026-11-26T02:00:00Z'), '')).toEqual({
      due: at('2026-11-26T02:00:00Z'),
      missed: 0,
      late: false,
    });
    expect(dueNow(daily, at('2026-11-26T02:00:00Z'), at('2026-11-26T02:00:01Z'), '')).toBeNull();
  });

  it('makes up for what was missed as it is told to', () => {
    const hourly = { cron: '0 * * * *' };
    const taken = at('2026-11-26T02:00:00Z');
    const now = at('2026-11-26T07:30:00Z');
    for (const catchUp of ['once', 'none'] as const)
      expect(dueNow(timing({ ...hourly, catchUp }), taken, now, '')).toEqual({
        due: at('2026-11-26T07:00:00Z'),
        missed: 4,
        late: true,
      });
    expect(dueNow(timing({ ...hourly, catchUp: 'all' }), taken, now, '')).toMatchObject({
      due: at('2026-11-26T03:00:00Z'),
      late: true,
    });
    // Within bounds.
    const long = dueNow(timing({ cron: '* * * * *', catchUp: 'all' }), at('2026-01-01T00:00:00Z'), now, '');
    expect(now.getTime() - long!.due.getTime()).toBe((CATCH_UP_MAX - 1) * 60_000);
  });

  it('begins later by a jitter that is the same for every process and differs from time to time', () => {
    const jittered = timing({ cron: '* * * * *', jitterMs: 600_000 });
    const delays = new Set<number>();
    for (let minute = 0; minute < 60; minute++) {
      const due = new Date(Date.UTC(2026, 10, 26, 10, minute));
      const begins = beginsAt(jittered, due, 'slot');
      expect(beginsAt({ ...jittered }, due, 'slot')).toEqual(begins);
      const delayMs = begins.getTime() - due.getTime();
      // Never so late that the next one would come first.
      expect(delayMs).toBeGreaterThanOrEqual(0);
      expect(delayMs).toBeLessThan(54_000);
      delays.add(delayMs);
    }
    expect(delays.size).toBeGreaterThan(50);
    const due = at('2026-11-26T10:00:00Z');
    const begins = beginsAt(jittered, due, 'slot');
    const taken = at('2026-11-26T09:59:00Z');
    expect(dueNow(jittered, taken, new Date(begins.getTime() - 1), 'slot')).toBeNull();
    expect(nextLook(jittered, taken, new Date(begins.getTime() - 1), 'slot')).toEqual(begins);
    expect(dueNow(jittered, taken, begins, 'slot')).toMatchObject({ due, late: false });
  });
});
