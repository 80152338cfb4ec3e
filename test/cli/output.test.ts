import { describe, expect, test } from 'vitest';
import { toJson } from '../../src/api/json.ts';
import {
  displayWidth,
  formatBytes,
  formatCell,
  formatDuration,
  formatTable,
  paintFor,
  printable,
} from '../../src/cli/output.ts';

describe('formatTable', () => {
  test('aligns columns, wide characters included, and leaves no trailing blanks', () => {
    const table = formatTable(
      [{ title: 'name' }, { title: 'n', align: 'right' }],
      [
        ['日本', '1'],
        ['a', '100'],
        ['é', ''],
      ],
    );
    expect(table.split('\n')).toEqual(['name    n', '────  ───', '日本    1', 'a     100', 'é']);
  });

  test('data cannot move the cursor, break a line or turn text around', () => {
    expect(printable('a\u001b[31mb\nc\r\t\u009b\u202e')).toBe('a\\x1b[31mb\\nc\\r\\t\\x9b\\u202e');
  });

  test('a very long cell is cut', () => {
    expect(formatTable([{ title: 'x' }], [['y'.repeat(1000)]]).split('\n')[2]).toHaveLength(200);
  });

  test('no rows', () => {
    expect(formatTable([{ title: 'x' }], [])).toBe('x\n─');
  });
});

test('display width', () => {
  expect(['abc', 'é', 'e\u0301', '日本', '😀'].map(displayWidth)).toEqual([3, 1, 1, 4, 2]);
});

test('sizes and times', () => {
  expect([0, 1023, 1024, 1536, 150 * 1024, 5 * 1024 ** 3, -2048].map(formatBytes)).toEqual([
    '0 B',
    '1023 B',
    '1.0 kB',
    '1.5 kB',
    '150 kB',
    '5.0 GB',
    '-2.0 kB',
  ]);
  expect([0.0005, 0.85, 0.9999, 1.23, 59, 61, 7500].map(formatDuration)).toEqual([
    '1 ms',
    '850 ms',
    '1.0 s',
    '1.2 s',
    '59 s',
    '1 min 1 s',
    '2 h 5 min',
  ]);
});

test('JSON of what JSON has no word for', () => {
  const value = { small: 5n, big: 2n ** 60n, nan: Number.NaN, bytes: Buffer.from([1, 255]), map: new Map([['a', 1]]) };
  expect(JSON.parse(toJson(value))).toEqual({
    small: 5,
    big: '1152921504606846976',
    nan: 'NaN',
    bytes: '\\x01ff',
    map: { a: 1 },
  });
});

test('cells', () => {
  expect([null, undefined, 'x', 1, true, 5n, [1, 2n], { a: 1 }].map(formatCell)).toEqual([
    'NULL',
    'NULL',
    'x',
    '1',
    'true',
    '5',
    '[1,2]',
    '{"a":1}',
  ]);
});

test('colours only on a terminal that wants them', () => {
  expect(paintFor({ isTTY: true }, {})('red', 'x')).toBe('\u001b[31mx\u001b[0m');
  expect(paintFor({ isTTY: true }, { NO_COLOR: '1' })('red', 'x')).toBe('x');
  expect(paintFor({ isTTY: true }, { TERM: 'dumb' })('red', 'x')).toBe('x');
  expect(paintFor({}, {})('red', 'x')).toBe('x');
  expect(paintFor({}, { FORCE_COLOR: '1' })('red', 'x')).toContain('\u001b');
});
