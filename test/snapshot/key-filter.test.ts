import fc from 'fast-check';
import { expect, it } from 'vitest';
import { copiedRows } from '../../src/event/copied-rows.ts';
import { KeyFilter } from '../../src/snapshot/key-filter.ts';
import { keyOf } from '../../src/snapshot/table-watch.ts';
import { copyLine } from '../support/copy-line.ts';
import { relation } from '../transport/kafka/harness.ts';

const value = fc.oneof(fc.constantFrom('', '1', '12', 'a\tb', 'back\\slash', '\\N', '\ufffd', 'ü'), fc.string());

function rowsOf(lines: readonly Buffer[], columns: number) {
  const starts: number[] = [];
  const ends: number[] = [];
  let at = 0;
  for (const { length } of lines) {
    starts.push(at);
    at += length;
    ends.push(at);
  }
  const [first] = relation('t').columns;
  const of = { ...relation('t'), columns: Array.from({ length: columns }, (_, i) => ({ ...first!, name: `c${i}` })) };
  return copiedRows(of, Buffer.concat(lines), starts, ends);
}

it('never passes over a row whose key is among them', () => {
  const rows = fc.array(fc.array(fc.option(value), { minLength: 3, maxLength: 3 }), { minLength: 1, maxLength: 20 });
  const key = fc.uniqueArray(fc.integer({ min: 0, max: 2 }), { minLength: 1, maxLength: 3 });
  fc.assert(
    fc.property(rows, key, fc.array(fc.nat(), { maxLength: 5 }), (values, columns, chosen) => {
      const rows = rowsOf(values.map(copyLine), 3);
      const keyAt = (i: number) => keyOf((column) => rows.text(i, column), columns);
      const keys = chosen.flatMap((i) => keyAt(i % rows.count) ?? []);
      const filter = new KeyFilter(keys);
      for (let i = 0; i < rows.count; i++)
        if (keys.includes(keyAt(i) ?? '\0none')) expect(filter.mayHave(rows, i, columns)).toBe(true);
    }),
  );
});

it('looks at bytes that are no text, which may be the same text', () => {
  const rows = rowsOf([Buffer.from([0xff, 0x0a])], 1);
  expect(new KeyFilter([rows.text(0, 0)!]).mayHave(rows, 0, [0])).toBe(true);
});

it('passes over nearly all others', () => {
  const rows = rowsOf(
    Array.from({ length: 10_000 }, (_, i) => copyLine([`value ${i}`, `${i}`])),
    2,
  );
  const filter = new KeyFilter(Array.from({ length: 500 }, (_, i) => `${20_000 + i}`));
  const looked = Array.from({ length: rows.count }, (_, i) => filter.mayHave(rows, i, [1])).filter(Boolean);
  expect(looked.length).toBeLessThan(500);
});
