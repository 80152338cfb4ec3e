import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ArrayItem, formatArray, parseArray } from '../../src/event/array-text.ts';

const tricky = fc.oneof(
  fc.string({ unit: 'grapheme' }),
  fc.string({ unit: fc.constantFrom('"', '\\', '{', '}', ',', ';', ' ', '\t', '\n', '\v', '\f', '\r', 'a', 'é', '𝄞') }),
  fc.constantFrom('', 'NULL', 'null', 'nUlL', 'NULLS', '[1:2]={}'),
);
const leaf = fc.option(tricky);

/** Arrays of up to three dimensions, every branch of one dimension equally long. */
const shaped = fc
  .tuple(
    fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 3 }),
    fc.array(leaf, { minLength: 27, maxLength: 27 }),
  )
  .map(([dims, leaves]) => {
    let next = 0;
    const build = (depth: number): ArrayItem[] =>
      Array.from({ length: dims[depth]! }, () => (depth === dims.length - 1 ? leaves[next++]! : build(depth + 1)));
    return { dims, elements: build(0) };
  });

describe('the text of arrays', () => {
  it('is as array_out prints it', () => {
    expect(parseArray('{}')).toEqual({ lowerBounds: [], dims: [], elements: [] });
    expect(parseArray('{1,NULL,"NULL","a\\"b\\\\c",""}').elements).toEqual(['1', null, 'NULL', 'a"b\\c', '']);
    expect(parseArray('[0:1][-3:-2]={{1,2},{3,4}}')).toEqual({
      lowerBounds: [0, -3],
      dims: [2, 2],
      elements: [
        ['1', '2'],
        ['3', '4'],
      ],
    });
    expect(parseArray('{(1,1),(0,0);(2,2),(1,1)}', ';').elements).toEqual(['(1,1),(0,0)', '(2,2),(1,1)']);
  });

  it('comes back from what it was read to', () => {
    fc.assert(
      fc.property(
        shaped,
        fc.array(fc.integer({ min: -5, max: 5 }), { minLength: 3, maxLength: 3 }),
        fc.constantFrom(',', ';'),
        (shape, bounds, delimiter) => {
          const array = { ...shape, lowerBounds: bounds.slice(0, shape.dims.length) };
          const text = formatArray(array, delimiter);
          expect(parseArray(text, delimiter)).toEqual(array);
          expect(formatArray(parseArray(text, delimiter), delimiter)).toBe(text);
        },
      ),
    );
  });

  it.each([
    '',
    '1 2 3',
    '{',
    '{1',
    '{1,}',
    '{,1}',
    '{1}x',
    '{"a}',
    '{{1},{2,3}}',
    '{{1},2}',
    '[1:2]{1,2}',
    '{a"b}',
    '{{}}',
    '{{{{{{{1}}}}}}}',
  ])('is refused where array_out could not have printed it: %s', (text) =>
    expect(() => parseArray(text)).toThrowError(expect.objectContaining({ code: 'PROTOCOL' })),
  );
});
