import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RetainWindow } from '../../src/pipeline/retain.ts';

describe('what is held back on purpose', () => {
  it('is nothing without bounds', () => {
    expect(new RetainWindow(null).release(500n, 0)).toBe(500n);
  });

  it('lets go of what lies further back than the bytes', () => {
    const window = new RetainWindow({ bytes: 100, ms: null });
    expect(window.release(50n, 0)).toBe(0n);
    expect(window.release(150n, 0)).toBe(50n);
  });

  it('lets go of what is older than the time, whatever the bytes', () => {
    const window = new RetainWindow({ bytes: 1_000_000, ms: 60_000 });
    window.note(100n, 0);
    window.note(200n, 30_000);
    expect(window.release(300n, 59_999)).toBe(0n);
    expect(window.release(300n, 60_000)).toBe(100n);
    expect(window.release(300n, 95_000)).toBe(200n);
    expect(window.release(300n, 1e9)).toBe(200n);
  });

  it('lets go where the budget of the source leaves less, and never takes back', () => {
    const window = new RetainWindow({ bytes: 1000, ms: null });
    expect(window.release(2000n, 0)).toBe(1000n);
    window.bytesMax = 100;
    expect(window.release(2000n, 0)).toBe(1900n);
    window.bytesMax = Number.POSITIVE_INFINITY;
    expect(window.release(2000n, 0)).toBe(1900n);
  });

  it('never passes what is durable, never goes back, and never holds more than either bound', () => {
    const step = fc.record({
      wal: fc.integer({ min: 0, max: 500 }),
      ms: fc.integer({ min: 1000, max: 5000 }),
      lag: fc.nat(3),
    });
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 60 }), fc.nat(2000), fc.nat(20_000), (steps, bytes, ms) => {
        const window = new RetainWindow({ bytes, ms });
        const commits: { lsn: bigint; at: number }[] = [];
        let lsn = 0n;
        let now = 0;
        let before = 0n;
        let durable = 0n;
        for (const { wal, ms: passed, lag } of steps) {
          lsn += BigInt(wal);
          now += passed;
          window.note(lsn, now);
          commits.push({ lsn, at: now });
          const lagging = commits[Math.max(0, commits.length - 1 - lag)]!.lsn;
          durable = lagging > durable ? lagging : durable;
          const released = window.release(durable, now);
          expect(released <= durable && released >= before).toBe(true);
          before = released;
          expect(durable - released <= BigInt(bytes)).toBe(true);
          const aged = commits.filter(({ at }) => at <= now - ms).at(-1)?.lsn ?? 0n;
          expect(released >= (aged < durable ? aged : durable)).toBe(true);
        }
      }),
    );
  });
});
