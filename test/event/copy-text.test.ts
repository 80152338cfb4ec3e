import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ByteWriter } from '../../src/event/byte-writer.ts';
import { copyRowToTuple, valueEnd, wordsOf } from '../../src/event/copy-text.ts';
import { Row } from '../../src/event/row.ts';
import { copyLine } from '../support/copy-line.ts';

function read(line: Buffer, columns: number): (string | null | undefined)[] {
  const out = new ByteWriter(8);
  out.push(Buffer.from('before'));
  const at = copyRowToTuple(line, 0, line.length, columns, out);
  const row = new Row({ oid: 1, schema: 's', table: 't', replicaIdentity: 'd', columns: [], key: [] }, out.bytes, at);
  expect(row.starts()[columns]).toBe(out.length);
  return Array.from({ length: columns }, (_, i) => row.text(i));
}

describe('copyRowToTuple', () => {
  it('tells NULL, the empty string and a literal \\N apart', () => {
    expect(read(copyLine([null, '', '\\N', 'N']), 4)).toEqual([null, '', '\\N', 'N']);
  });

  it('gives back any row that PostgreSQL would write', () => {
    const value = fc.option(
      fc.string({ unit: fc.constantFrom('a', '\\', '\t', '\n', '\r', '\b', '\v', '\f', 'N', 'é', '😀', '.') }),
      { nil: null },
    );
    fc.assert(
      fc.property(fc.array(value, { minLength: 1, maxLength: 8 }), (values) => {
        expect(read(copyLine(values), values.length)).toEqual(values);
      }),
    );
  });

  it('takes a table without columns', () => {
    expect(read(Buffer.from('\n'), 0)).toEqual([]);
  });

  it('refuses a row with too few or too many columns', () => {
    expect(() => read(copyLine(['a', 'b']), 3)).toThrow(RangeError);
    expect(() => read(copyLine(['a', 'b']), 1)).toThrow(RangeError);
  });
});

describe('valueEnd', () => {
  it('is the first tab or backslash, or the end of the row, wherever they lie', () => {
    const byte = fc.oneof(
      { weight: 12, arbitrary: fc.constantFrom(0x61, 0x00, 0x08, 0x0a, 0x5b, 0x5d, 0x80, 0x89, 0xdc, 0xff) },
      { weight: 1, arbitrary: fc.constantFrom(0x09, 0x5c) },
    );
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 80 }), fc.nat(80), fc.nat(80), (list, from, more) => {
        const bytes = Buffer.from(Uint8Array.from([...list, 0x61, 0x09, 0x61]).buffer);
        const at = Math.min(from, list.length);
        const stop = Math.min(at + more, list.length);
        let end = at;
        while (end < stop && bytes[end] !== 0x09 && bytes[end] !== 0x5c) end++;
        expect(valueEnd(bytes, wordsOf(bytes), at, stop)).toBe(end);
      }),
      { numRuns: 3000 },
    );
  });
});
