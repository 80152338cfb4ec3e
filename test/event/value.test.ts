import { describe, expect, it } from 'vitest';
import type { ColumnType } from '../../src/event/relation.ts';
import { decodeValue, valueAt } from '../../src/event/value.ts';
import { arrayOf, baseTypeOf, domainOf, relationOf, rowOf, userType } from './fixtures.ts';

const decode = (type: ColumnType, text: string): unknown => decodeValue(type, -1, text);

describe('values for user code', () => {
  it.each<[string, string, unknown]>([
    ['bool', 't', true],
    ['bool', 'f', false],
    ['int2', '-32768', -32_768],
    ['int4', '2147483647', 2_147_483_647],
    ['int8', '9223372036854775807', 9_223_372_036_854_775_807n],
    ['oid', '4294967295', 4_294_967_295],
    ['float8', '1e+20', 1e20],
    ['float8', 'NaN', Number.NaN],
    ['float8', '-Infinity', Number.NEGATIVE_INFINITY],
    ['numeric', '0.10', '0.10'],
    ['numeric', 'NaN', 'NaN'],
    ['date', '1970-01-02', 1],
    ['date', '0001-12-31 BC', -719_163],
    ['date', 'infinity', 'infinity'],
    ['time', '24:00:00', 86_400_000_000n],
    ['timestamp', '1970-01-01 00:00:00.000001', 1n],
    ['timestamptz', '9999-12-31 23:59:59+00', 253_402_300_799_000_000n],
    ['timestamptz', '-infinity', '-infinity'],
    ['bytea', '\\x00ff', new Uint8Array([0, 255])],
    ['bytea', '\\x', new Uint8Array()],
    ['jsonb', '{"a": 1}', '{"a": 1}'],
    ['money', '$1.00', '$1.00'],
    ['timetz', '12:00:00+00', '12:00:00+00'],
  ])('%s %s', (name, text, value) => {
    expect(decode(baseTypeOf(name), text)).toEqual(value);
    expect(decode(domainOf(baseTypeOf(name)), text)).toEqual(value);
  });

  it('nests arrays and leaves out their bounds', () => {
    expect(decode(arrayOf(baseTypeOf('int8')), '[0:1][1:2]={{1,NULL},{3,4}}')).toEqual([
      [1n, null],
      [3n, 4n],
    ]);
    expect(decode(arrayOf(baseTypeOf('box')), '{(1,1),(0,0);(2,2),(1,1)}')).toEqual(['(1,1),(0,0)', '(2,2),(1,1)']);
    expect(decode(domainOf(arrayOf(baseTypeOf('text'))), '{"a,b",c}')).toEqual(['a,b', 'c']);
  });

  it('never takes a user type for a built-in one of the same name', () => {
    expect(decode(userType('date', 'enum'), '1970-01-02')).toBe('1970-01-02');
    expect(decode({ ...userType('int8', 'base') }, 'x')).toBe('x');
  });

  it('tells NULL from unchanged, and says what is wrong', () => {
    const relation = relationOf([
      ['id', baseTypeOf('int8')],
      ['a', baseTypeOf('text')],
      ['b', baseTypeOf('text')],
    ]);
    const row = rowOf(relation, ['7', null, undefined]);
    expect([valueAt(row, 0), valueAt(row, 1), valueAt(row, 2)]).toEqual([7n, null, undefined]);
    expect(() => decode(baseTypeOf('int8'), 'x')).toThrowError(expect.objectContaining({ code: 'PROTOCOL' }));
    expect(() => decode(baseTypeOf('bytea'), 'abc')).toThrowError(expect.objectContaining({ code: 'PROTOCOL' }));
  });
});
