import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ROW_GROUP } from '../../src/event/copied-rows.ts';
import { type ChunkBounds, ChunkSize } from '../../src/snapshot/chunk-size.ts';

const USUAL: ChunkBounds = { rowsMax: 131_072, bytesMax: 16 * 2 ** 20, rowsPerSecondMax: null, groups: true };

/** The chunks of a table of `rows` rows, where the planner's guess is `guess`. */
function chunks(rows: number, guess: number, bounds: Partial<ChunkBounds> = {}, rowBytes = 100): number[] {
  const size = new ChunkSize({ ...USUAL, ...bounds });
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
    expect(chunks(200_000, 200_000, { rowsMax: 10_000 }).slice(0, 5)).toEqual([500, 2000, 8000, 10_000, 10_000]);
    expect(chunks(200_000, 200_000, {}, 2 ** 14).slice(0, 4)).toEqual([500, 1024, 1024, 1024]);
  });

  it('is one at least, and the bound from the first on', () => {
    expect(chunks(3, 3, { rowsMax: 1 }, 2 ** 30)).toEqual([1, 1, 1]);
    expect(chunks(3, 3, { rowsPerSecondMax: 1 })).toEqual([1, 1, 1]);
  });

  it('is what a second allows at a limited rate, and a row group where five allow one', () => {
    const most = (bounds: Partial<ChunkBounds>) => Math.max(...chunks(1_000_000, -1, bounds));
    expect(most({ rowsPerSecondMax: 20_000 })).toBe(20_000);
    expect(most({ rowsPerSecondMax: 30_000 })).toBe(131_072);
    expect(most({ rowsPerSecondMax: 30_000, groups: false })).toBe(30_000);
    expect(most({ rowsPerSecondMax: 4000, rowsMax: 10_000 })).toBe(4000);
  });

  it('leaves no rest that is less than a row group, where the guess is right', () => {
    expect(chunks(2_000_000, 2_000_000).at(-1)).toBeGreaterThan(ROW_GROUP);
    fc.assert(
      fc.property(
        fc.integer({ min: 600_000, max: 5_000_000 }),
        fc.integer({ min: ROW_GROUP, max: 160_000 }),
        (rows, rowsMax) => {
          const counts = chunks(rows, rows, { rowsMax });
          expect(counts.reduce((sum, count) => sum + count, 0)).toBe(rows);
          expect(counts.at(-1)).toBeGreaterThanOrEqual(ROW_GROUP);
        },
      ),
    );
  });

  it('is never more where row groups are worth nothing', () => {
    expect(Math.max(...chunks(2_000_000, 2_000_000, { groups: false }))).toBe(131_072);
  });

  it('does without a guess, and with a wrong one', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1_000_000 }),
        fc.integer({ min: -1, max: 2_000_000 }),
        fc.integer({ min: 1, max: 200_000 }),
        (rows, guess, rowsMax) => {
          fc.pre(rows / rowsMax < 10_000);
          for (const count of chunks(rows, guess, { rowsMax })) expect(count).toBeLessThanOrEqual(rowsMax + ROW_GROUP);
        },
      ),
    );
    expect(Math.max(...chunks(1_000_000, -1))).toBe(131_072);
  });
});
