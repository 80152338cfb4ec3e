import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ROW_GROUP } from '../../src/event/copied-rows.ts';
import { ChunkSize } from '../../src/snapshot/chunk-size.ts';

/** The chunks of a table of `rows` rows, where the planner's guess is `guess`. */
function chunks(rows: number, guess: number, rowsMax: number, rowBytes = 100): number[] {
  const size = new ChunkSize(rowsMax, 16 * 2 ** 20);
  const counts: number[] = [];
  for (let done = 0; done < rows; ) {
    const count = Math.min(size.rows, rows - done);
    counts.push(count);
    done += count;
    size.learn(count, count * rowBytes, guess - done);
  }
  return counts;
}

describe('how many rows a chunk has', () => {
  it('grows until how wide rows are is known, and then keeps to both bounds', () => {
    expect(chunks(200_000, 200_000, 10_000).slice(0, 5)).toEqual([500, 2000, 8000, 10_000, 10_000]);
    expect(chunks(200_000, 200_000, 100_000, 2 ** 14).slice(0, 4)).toEqual([500, 1024, 1024, 1024]);
  });

  it('is one at least', () => {
    expect(chunks(3, 3, 1, 2 ** 30)).toEqual([1, 1, 1]);
  });

  it('leaves no rest that is less than a row group, where the guess is right', () => {
    expect(chunks(2_000_000, 2_000_000, 131_072).at(-1)).toBeGreaterThan(ROW_GROUP);
    fc.assert(
      fc.property(
        fc.integer({ min: 600_000, max: 5_000_000 }),
        fc.integer({ min: ROW_GROUP, max: 160_000 }),
        (rows, max) => {
          const counts = chunks(rows, rows, max);
          expect(counts.reduce((sum, count) => sum + count, 0)).toBe(rows);
          expect(counts.at(-1)).toBeGreaterThanOrEqual(ROW_GROUP);
        },
      ),
    );
  });

  it('does without a guess, and with a wrong one', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1_000_000 }),
        fc.integer({ min: -1, max: 2_000_000 }),
        fc.integer({ min: 1, max: 200_000 }),
        (rows, guess, max) => {
          fc.pre(rows / max < 10_000);
          for (const count of chunks(rows, guess, max)) expect(count).toBeLessThanOrEqual(max + ROW_GROUP);
        },
      ),
    );
    expect(Math.max(...chunks(1_000_000, -1, 131_072))).toBe(131_072);
  });
});
