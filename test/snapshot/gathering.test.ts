import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CopiedRows } from '../../src/event/copied-rows.ts';
import { Gathering } from '../../src/snapshot/gathering.ts';

const relation = { oid: 1, schema: 's', table: 't', replicaIdentity: 'd', columns: [], key: [] } as const;

/** Rows whose text is their number and padding. */
function blockOf(from: number, count: number, width: number): CopiedRows {
  const lines = Array.from({ length: count }, (_, i) => Buffer.from(`${String(from + i).padEnd(width)}\n`));
  const ends = lines.map((_, i) => lines.slice(0, i + 1).reduce((sum, line) => sum + line.length, 0));
  const starts = ends.map((end, i) => end - lines[i]!.length);
  return new CopiedRows(relation, Buffer.concat(lines), Int32Array.from(starts), Int32Array.from(ends));
}

const numbers = (group: readonly CopiedRows[]): number[] =>
  group.flatMap(({ bytes, starts, ends }) =>
    Array.from(starts, (start, i) => Number(bytes.toString('latin1', start, ends[i]))),
  );

describe('Gathering', () => {
  it('gives every row once and in order, in groups of exactly as many rows while they are light', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 20 }),
        fc.integer({ min: 1, max: 50 }),
        (sizes, rowsMax) => {
          const gathering = new Gathering({ rowsMax, weightMax: 1e9 });
          const groups: (readonly CopiedRows[])[] = [];
          let total = 0;
          for (const size of sizes) {
            for (const group of gathering.add(blockOf(total, size, 8))) groups.push(group);
            total += size;
          }
          expect(groups.map((group) => numbers(group).length)).toEqual(groups.map(() => rowsMax));
          const rest = gathering.rest();
          expect(numbers(rest).length).toBeLessThan(rowsMax);
          expect([...groups, rest].flatMap(numbers)).toEqual(Array.from({ length: total }, (_, i) => i));
          expect(gathering.rest()).toEqual([]);
        },
      ),
    );
  });

  it('ends a group early once its rows are heavy', () => {
    const gathering = new Gathering({ rowsMax: 100, weightMax: 5000 });
    const groups = Array.from({ length: 4 }, (_, i) => [...gathering.add(blockOf(i * 2, 2, 2000))]).flat();
    expect(groups.map(numbers)).toEqual([
      [0, 1, 2, 3],
      [4, 5, 6, 7],
    ]);
  });
});
