import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Acknowledger } from '../../src/pipeline/acknowledger.ts';

describe('Acknowledger', () => {
  it('never passes a batch that is not durable, in any order of completion', () => {
    const batches = fc.array(fc.boolean(), { minLength: 1, maxLength: 40 });
    fc.assert(
      fc.property(batches, fc.infiniteStream(fc.nat()), (ends, random) => {
        const acknowledger = new Acknowledger();
        const lsns = ends.map((isEnd, index) => (isEnd ? BigInt(index + 1) * 10n : null));
        const waiting = lsns.map((lsn, index) => ({ index, done: acknowledger.track(lsn) }));
        const durable = new Set<number>();
        let last = 0n;
        while (waiting.length > 0) {
          const [{ index, done }] = waiting.splice(random.next().value! % waiting.length, 1) as [
            (typeof waiting)[number],
          ];
          durable.add(index);
          const acknowledged = done();
          let unbroken = 0;
          while (durable.has(unbroken)) unbroken++;
          const expected = lsns
            .slice(0, unbroken)
            .reduce<bigint>((max, lsn) => (lsn !== null && lsn > max ? lsn : max), 0n);
          expect(acknowledged).toBe(expected);
          expect(acknowledged >= last).toBe(true);
          last = acknowledged;
        }
        expect(acknowledger.outstanding).toBe(0);
      }),
    );
  });

  it('forgets what is done', () => {
    const acknowledger = new Acknowledger();
    for (let i = 1n; i < 5000n; i++) acknowledger.track(i)();
    expect(acknowledger.lsn).toBe(4999n);
    expect(acknowledger.outstanding).toBe(0);
  });

  it('is settled where only the beginning of a transaction is awaited', () => {
    const acknowledger = new Acknowledger();
    expect(acknowledger.settled).toBe(true);
    const whole = acknowledger.track(10n);
    const part = acknowledger.track(null);
    expect(acknowledger.settled).toBe(false);
    whole();
    expect(acknowledger.settled).toBe(true);
    const rest = acknowledger.track(20n);
    part();
    expect(acknowledger.settled).toBe(false);
    rest();
    expect(acknowledger.settled).toBe(true);
  });
});
