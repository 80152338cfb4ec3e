import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { inexactNumber, quoteInexact } from '../../src/event/exact-json.ts';

describe('numbers that JSON.parse would change', () => {
  test.each([
    ...[
      '12345678901234567890.123',
      '1e400',
      '-1e400',
      '1e-400',
      '9007199254740993',
      '0.12345678901234567890',
      '-0',
      '-0.0',
      '0.1000000000000000055511',
    ],
    '123456789012345678901234567890e5',
  ])('%s is found', (number) => {
    expect(inexactNumber(`{"a":[{"b": ${number} }]}`)).toBe(number);
    expect(inexactNumber(number)).toBe(number);
  });

  test.each([
    ...[
      '0',
      '0.0',
      '0e5',
      '1',
      '-1',
      '1.10',
      '1.5e3',
      '1E3',
      '1e22',
      '0.1',
      '9007199254740992',
      '1.7976931348623157e308',
      '5e-324',
      '100',
    ],
    ...['"12345678901234567890.123"', '"a\\"1e400"', '"\\\\"', '{"1e400":"9007199254740993"}', '[true,null,"x",{}]'],
  ])('%s is not', (text) => {
    expect(inexactNumber(text)).toBeNull();
    expect(inexactNumber(`[${text}]`)).toBeNull();
  });

  test('every double that JavaScript prints is one; a digit more than it can hold never is', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
        fc.pre(!Object.is(value, -0));
        expect(inexactNumber(JSON.stringify({ value }))).toBeNull();
      }),
    );
    // 15 digits always fit a double, and JavaScript prints 17 at most.
    const digits = (least: number, most: number) =>
      fc.stringMatching(new RegExp(`^[1-9][0-9]{${least - 2},${most - 2}}[1-9]$`));
    fc.assert(
      fc.property(
        digits(2, 15),
        fc.integer({ min: -300, max: 290 }),
        (n, e) => void expect(inexactNumber(`${n}e${e}`)).toBeNull(),
      ),
    );
    fc.assert(
      fc.property(
        digits(18, 40),
        fc.integer({ min: -300, max: 260 }),
        (n, e) => void expect(inexactNumber(`${n}e${e}`)).toBe(`${n}e${e}`),
      ),
    );
  });

  test('JSON of any shape: found exactly where a number is changed', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const text = JSON.stringify(value);
        expect(inexactNumber(text)).toBeNull();
        expect(inexactNumber(`{"x":${text},"y":1e999}`)).toBe('1e999');
        expect(JSON.parse(quoteInexact(`{"x":${text},"y":[1e999,9007199254740993]}`))).toEqual({
          x: JSON.parse(text),
          y: ['1e999', '9007199254740993'],
        });
      }),
    );
  });
});
