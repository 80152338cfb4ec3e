import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { RejectedError } from '../../../src/errors.ts';
import type { ColumnType } from '../../../src/event/relation.ts';
import { encodeTuple, Row } from '../../../src/event/row.ts';
import {
  arrayOf,
  changes,
  delivery,
  directory,
  enumOf,
  events,
  numericOf,
  openSink,
  relation,
  type,
} from './support.ts';

const domain = (of: ColumnType, domainModifier = -1): ColumnType =>
  type('d', { schema: 'public', kind: 'domain', of, domainModifier });

/** [what, type, modifier, DuckDB type, [text in PostgreSQL, text in DuckDB][]] */
type Case = readonly [
  name: string,
  type: ColumnType,
  modifier: number,
  duckdb: string,
  values: readonly (readonly [string, string])[],
];
const same = (...values: string[]) => values.map((value) => [value, value] as const);

const CASES: Case[] = [
  [
    'bool',
    type('bool'),
    -1,
    'BOOLEAN',
    [
      ['t', 'true'],
      ['f', 'false'],
    ],
  ],
  ['int2', type('int2'), -1, 'SMALLINT', same('-32768', '0', '32767')],
  ['int4', type('int4'), -1, 'INTEGER', same('-2147483648', '-1', '2147483647')],
  [
    'int8',
    type('int8'),
    -1,
    'BIGINT',
    same(
      '-9223372036854775808',
      '-4294967297',
      '-1',
      '0',
      '999999999999999',
      '1000000000000000',
      '9223372036854775807',
    ),
  ],
  ['oid', type('oid'), -1, 'UINTEGER', same('0', '4294967295')],
  [
    'float4',
    type('float4'),
    -1,
    'FLOAT',
    [
      ['1.1', '1.1'],
      ['-0', '-0.0'],
      ['NaN', 'nan'],
      ['Infinity', 'inf'],
      ['-Infinity', '-inf'],
      ['1e-45', '1e-45'],
      ['3.4028235e+38', '3.4028235e+38'],
    ],
  ],
  [
    'float8',
    type('float8'),
    -1,
    'DOUBLE',
    [
      ['0.1', '0.1'],
      ['NaN', 'nan'],
      ['-Infinity', '-inf'],
      ['5e-324', '5e-324'],
      ['1.7976931348623157e+308', '1.7976931348623157e+308'],
    ],
  ],
  ['numeric(4,2)', type('numeric'), numericOf(4, 2), 'DECIMAL(4,2)', same('-99.99', '0.00', '-0.01')],
  ['numeric(9,0)', type('numeric'), numericOf(9, 0), 'DECIMAL(9,0)', same('999999999', '-1')],
  [
    'numeric(18,6)',
    type('numeric'),
    numericOf(18, 6),
    'DECIMAL(18,6)',
    same('999999999999.999999', '-999999999999.999999', '123456789.000001', '0.000000'),
  ],
  [
    'numeric(18,0)',
    type('numeric'),
    numericOf(18, 0),
    'DECIMAL(18,0)',
    same('999999999999999999', '-9007199254740993', '9007199254740993'),
  ],
  [
    'numeric(38,10)',
    type('numeric'),
    numericOf(38, 10),
    'DECIMAL(38,10)',
    same('9999999999999999999999999999.9999999999', '-1.0000000001', '-9999999999999999999999999999.9999999999'),
  ],
  ['numeric', type('numeric'), -1, 'VARCHAR', same('1.50', 'NaN', 'Infinity', `1${'0'.repeat(130)}.5`)],
  ['numeric(5,-2)', type('numeric'), numericOf(5, -2), 'VARCHAR', same('1234500')],
  ['numeric(3,5)', type('numeric'), numericOf(3, 5), 'VARCHAR', same('0.00123')],
  ['numeric(39,0)', type('numeric'), numericOf(39, 0), 'VARCHAR', same('9'.repeat(39))],
  [
    'text',
    type('text'),
    -1,
    'VARCHAR',
    same('', 'twelve bytes', 'thirteen byte', 'ünï 😀 "q" \\ \'', '\n\t', 'x'.repeat(100_000)),
  ],
  ['char(3)', type('bpchar'), 7, 'VARCHAR', same('a  ')],
  [
    'uuid',
    type('uuid'),
    -1,
    'UUID',
    same(
      '00000000-0000-0000-0000-000000000000',
      'ffffffff-ffff-ffff-ffff-ffffffffffff',
      '80000000-0000-0000-0000-000000000001',
      '12345678-9abc-def0-0fed-cba987654321',
    ),
  ],
  ['json', type('json'), -1, 'JSON', same('{"a" : 1,"a":2}', 'null', '[1e400]', '"\\ud800"')],
  ['jsonb', type('jsonb'), -1, 'JSON', same('{"a": [1, 2.50]}', '12345678901234567890.123')],
  [
    'bytea',
    type('bytea'),
    -1,
    'BLOB',
    [
      ['\\x', ''],
      ['\\x00ff41', '\\x00\\xFFA'],
      [`\\x${'ab'.repeat(20)}`, '\\xAB'.repeat(20)],
    ],
  ],
  [
    'date',
    type('date'),
    -1,
    'DATE',
    [
      ['2026-11-22', '2026-11-22'],
      ['0001-01-01', '0001-01-01'],
      ['0044-03-15 BC', '0044-03-15 (BC)'],
      ['4714-11-24 BC', '4714-11-24 (BC)'],
      ['5874897-12-31', '5874897-12-31'],
      ['infinity', 'infinity'],
      ['-infinity', '-infinity'],
    ],
  ],
  ['time', type('time'), -1, 'TIME', same('00:00:00', '23:59:59.999999', '12:34:56.5', '24:00:00')],
  [
    'timestamp',
    type('timestamp'),
    -1,
    'TIMESTAMP',
    [
      ['2026-11-22 03:04:05.1', '2026-11-22 03:04:05.1'],
      ['1600-02-29 00:00:00.000001', '1600-02-29 00:00:00.000001'],
      ['0044-03-15 12:00:00 BC', '0044-03-15 (BC) 12:00:00'],
      ['294246-12-31 23:59:59.999999', '294246-12-31 23:59:59.999999'],
      ['294247-01-10 04:00:54.775806', '294247-01-10 04:00:54.775806'],
      ['infinity', 'infinity'],
      ['-infinity', '-infinity'],
    ],
  ],
  [
    'timestamptz',
    type('timestamptz'),
    -1,
    'TIMESTAMP WITH TIME ZONE',
    [
      ['2026-11-22 03:04:05.123456+00', '2026-11-22 03:04:05.123456+00'],
      ['1969-12-31 23:59:59.999999+00', '1969-12-31 23:59:59.999999+00'],
      ['9999-12-31 00:00:00+00', '9999-12-31 00:00:00+00'],
      ['0001-01-01 00:00:00+00 BC', '0001-01-01 (BC) 00:00:00+00'],
      ['infinity', 'infinity'],
      ['-infinity', '-infinity'],
    ],
  ],
  ['interval', type('interval'), -1, 'VARCHAR', same('1 mon -30 days +00:00:00.000001')],
  ['inet', type('inet'), -1, 'VARCHAR', same('10.0.0.1/8')],
  ['timetz', type('timetz'), -1, 'VARCHAR', same('24:00:00-15:59')],
  ['a type of the same name elsewhere', type('date', { schema: 'public' }), -1, 'VARCHAR', same('soon')],
  ['composite', type('pair', { schema: 'public', kind: 'composite' }), -1, 'VARCHAR', same('(1,"a b")')],
  ['range', type('int4range', { kind: 'range' }), -1, 'VARCHAR', same('[1,5)')],
  ['enum', enumOf('mood', 'sad', "it's", 'ök'), -1, "ENUM('sad', 'it''s', 'ök')", same('sad', "it's", 'ök')],
  [
    'enum of 300 labels',
    enumOf('many', ...Array.from({ length: 300 }, (_, i) => `l${i}`)),
    -1,
    '',
    same('l0', 'l255', 'l256', 'l299'),
  ],
  ['domain over numeric', domain(type('numeric'), numericOf(6, 3)), -1, 'DECIMAL(6,3)', same('123.456')],
  ['domain over domain over int8', domain(domain(type('int8'))), -1, 'BIGINT', same('5')],
  [
    'int4[]',
    arrayOf(type('int4')),
    -1,
    'INTEGER[]',
    [
      ['{}', '[]'],
      ['{1,NULL,-3}', '[1, NULL, -3]'],
      [`{${'7,'.repeat(9999)}7}`, `[${'7, '.repeat(9999)}7]`],
    ],
  ],
  [
    'text[]',
    arrayOf(type('text')),
    -1,
    'VARCHAR[]',
    [['{a,"b c","NULL",NULL,"","{,}"}', "['a', 'b c', 'NULL', NULL, '', '{,}']"]],
  ],
  ['numeric(6,2)[]', arrayOf(type('numeric')), numericOf(6, 2), 'DECIMAL(6,2)[]', [['{1.50,NULL}', '[1.50, NULL]']]],
  [
    'timestamptz[]',
    arrayOf(type('timestamptz')),
    -1,
    'TIMESTAMP WITH TIME ZONE[]',
    [['{"2026-01-02 03:04:05+00",infinity}', "['2026-01-02 03:04:05+00', infinity]"]],
  ],
  ['bytea[]', arrayOf(type('bytea')), -1, 'BLOB[]', [['{"\\\\x00ff","\\\\x"}', '']]],
  [
    'uuid[]',
    arrayOf(type('uuid')),
    -1,
    'UUID[]',
    [['{12345678-9abc-def0-0fed-cba987654321}', '[12345678-9abc-def0-0fed-cba987654321]']],
  ],
  ['enum[]', arrayOf(enumOf('mood', 'sad')), -1, 'VARCHAR[]', [['{sad}', '[sad]']]],
  [
    'box[] with its own delimiter',
    arrayOf(type('box', { delimiter: ';' })),
    -1,
    'VARCHAR',
    same('{(1,1),(0,0);(2,2),(0,0)}'),
  ],
  ['domain over int4[]', domain(arrayOf(type('int4'))), -1, 'INTEGER[]', [['{4}', '[4]']]],
];

describe('values arrive exactly', () => {
  test.each(CASES)('%s', async (_name, of, modifier, duckdb, values) => {
    const sink = await openSink();
    const table = relation('t', [
      ['i', 'int4'],
      ['v', of, modifier],
    ]);
    const rows = [...values.map(([text]) => text), null];
    await sink.apply(changes(...rows.map((text, i) => ['c', table, [String(i), text]] as const)));
    // A key of this type finds its row again, so that an update is not a second row.
    if (of.name !== 'json') {
      const keyed = { ...table, oid: 5, table: 'k', key: [1] };
      await sink.apply(changes(...values.map(([text], i) => ['c', keyed, [String(i), text]] as const)));
      await sink.apply(changes(...values.map(([text], i) => ['u', keyed, [String(i + 1000), text]] as const)));
      expect(await sink.rows('SELECT count(*), min(i) FROM k')).toEqual([[String(values.length), 1000]]);
    }
    const stored = await sink.rows('SELECT CAST(v AS VARCHAR), typeof(v) FROM t ORDER BY i');
    if (duckdb !== '') expect(stored[0]![1]).toBe(duckdb);
    expect(stored.at(-1)![0]).toBeNull();
    values.forEach(([, expected], i) => {
      if (expected === '' && duckdb === 'BLOB[]') return;
      const plain = (text: unknown) => (duckdb.endsWith('[]') ? String(text).replaceAll("'", '') : text);
      expect(plain(stored[i]![0])).toBe(plain(expected));
    });
  });

  test('escapes in arrays of text, short and long', async () => {
    const sink = await openSink();
    const table = relation('t', [
      ['i', 'int4'],
      ['v', arrayOf(type('text'))],
    ]);
    await sink.apply(
      changes(['c', table, ['1', '{"q\\"\\\\x","longer than twelve bytes","with a \\" quote in it",NULL}']]),
    );
    expect(await sink.rows('SELECT v FROM t')).toEqual([
      [['q"\\x', 'longer than twelve bytes', 'with a " quote in it', null]],
    ]);
  });

  test('bytes of arrays of bytea', async () => {
    const sink = await openSink();
    const table = relation('t', [
      ['i', 'int4'],
      ['v', arrayOf(type('bytea'))],
    ]);
    await sink.apply(changes(['c', table, ['1', '{"\\\\x00ff","\\\\x",NULL}']]));
    expect(await sink.rows('SELECT list_transform(v, lambda x: hex(x)) FROM t')).toEqual([[['00FF', '', null]]]);
  });

  test('time order of what DuckDB computes with is that of PostgreSQL', async () => {
    const sink = await openSink();
    const table = relation('t', [
      ['i', 'int4'],
      ['v', 'timestamp'],
    ]);
    const texts = [
      '-infinity',
      '4713-01-01 00:00:00 BC',
      '0001-01-01 00:00:00',
      '1970-01-01 00:00:00',
      '294246-01-01 00:00:00',
      'infinity',
    ];
    await sink.apply(changes(...texts.map((text, i) => ['c', table, [String(i), text]] as const)));
    expect((await sink.rows('SELECT i FROM t ORDER BY v')).flat()).toEqual([0, 1, 2, 3, 4, 5]);
    expect(await sink.rows('SELECT count(*) FROM t WHERE isinf(v)')).toEqual([['2']]);
  });
});

describe('a value that the column cannot hold turns it to text', () => {
  test.each([
    ['a timestamp after DuckDB ends', type('timestamp'), -1, '294276-12-31 23:59:59.999999'],
    ['a timestamptz after DuckDB ends', type('timestamptz'), -1, '294247-01-10 04:00:54.775807+00'],
    ['NaN in numeric(p,s)', type('numeric'), numericOf(6, 2), 'NaN'],
    ['more digits than declared', type('numeric'), numericOf(6, 2), '12345.00'],
    ['more scale than declared', type('numeric'), numericOf(6, 2), '1.005'],
    ['an array of two dimensions', arrayOf(type('int4')), -1, '{{1,2},{3,4}}'],
    ['an array whose bounds begin elsewhere', arrayOf(type('int4')), -1, '[0:1]={1,2}'],
    ['NaN in an array of numeric(p,s)', arrayOf(type('numeric')), numericOf(6, 2), '{1.00,NaN}'],
    ['a number that is none', type('int4'), -1, '12a'],
  ])('%s', async (_name, of, modifier, text) => {
    const sink = await openSink();
    const table = relation('t', [
      ['i', 'int4'],
      ['v', of, modifier],
    ]);
    await sink.apply(changes(['c', table, ['1', null]]));
    await sink.apply(changes(['c', table, ['2', text]]));
    await sink.apply(changes(['u', table, ['1', text]], ['c', table, ['3', text]]));
    expect(await sink.rows('SELECT i, v, typeof(v) FROM t ORDER BY i')).toEqual(
      [1, 2, 3].map((i) => [i, text, 'VARCHAR']),
    );
  });

  test('for good: over restarts and schema changes, but not where a change prints values otherwise', async () => {
    const sink = await openSink();
    const v1 = relation('t', [
      ['i', 'int4'],
      ['v', 'numeric', numericOf(6, 2)],
    ]);
    await sink.apply(changes(['c', v1, ['1', '1.50']], ['c', v1, ['2', 'NaN']]));
    await sink.close();
    const again = await openSink(sink.path);
    const v2 = relation('t', [
      ['i', 'int4'],
      ['v', 'numeric', numericOf(6, 2)],
      ['more', 'text'],
    ]);
    await again.apply(changes(['c', v2, ['3', '2.50', 'x']]));
    const rows = [
      [1, '1.50', null],
      [2, 'NaN', null],
      [3, '2.50', 'x'],
    ];
    expect(await again.rows('SELECT i, v, more FROM t ORDER BY i')).toEqual(rows);
    const unscaled = relation('t', [
      ['i', 'int4'],
      ['v', 'numeric'],
      ['more', 'text'],
    ]);
    await again.apply(changes(['c', unscaled, ['4', '1.2345', null]]));
    expect(await again.rows('SELECT v FROM t ORDER BY i')).toEqual([['1.50'], ['NaN'], ['2.50'], ['1.2345']]);
    const padded = relation('t', [
      ['i', 'int4'],
      ['v', 'numeric', numericOf(9, 4)],
      ['more', 'text'],
    ]);
    await expect(again.apply(changes(['c', padded, ['5', '1.0000', null]]))).rejects.toThrow(RejectedError);
  });

  test('in a form that DuckDB reads again from its log after a crash', async () => {
    const sink = await openSink();
    const table = relation('t', [
      ['i', 'int4'],
      ['v', arrayOf(type('float8'))],
    ]);
    await sink.apply(changes(['c', table, ['1', '{1e+15,NULL}']]));
    await sink.apply(changes(['c', table, ['2', '{{1}}']]));
    const copy = join(await directory(), 'copy.duckdb');
    await copyFile(sink.path, copy);
    await copyFile(`${sink.path}.wal`, `${copy}.wal`);
    const again = await openSink(copy);
    expect(await again.rows('SELECT i, v FROM t ORDER BY i')).toEqual([
      [1, '{1e+15,NULL}'],
      [2, '{{1}}'],
    ]);
  });

  test('as a key, whose stored rows are found by their text from then on', async () => {
    const sink = await openSink();
    const table = relation('t', [
      ['k', 'timestamp'],
      ['v', 'int4'],
    ]);
    await sink.apply(changes(['c', table, ['0044-03-15 12:00:00 BC', '1']], ['c', table, ['infinity', '2']]));
    await sink.apply(
      changes(
        ['c', table, ['294276-01-01 00:00:00', '3']],
        ['u', table, ['0044-03-15 12:00:00 BC', '10']],
        ['d', table, null, ['infinity', null]],
      ),
    );
    expect(await sink.rows('SELECT k, v FROM t ORDER BY v')).toEqual([
      ['294276-01-01 00:00:00', 3],
      ['0044-03-15 12:00:00 BC', 10],
    ]);
  });
});

test('rows are read in place from a shared buffer with other bytes between them', async () => {
  const sink = await openSink();
  const table = relation('t', [
    ['i', 'int4'],
    ['v', 'text'],
  ]);
  const parts: Buffer[] = [];
  const starts: number[] = [];
  let at = 0;
  for (let i = 0; i < 5000; i++) {
    const tuple = encodeTuple([String(i), i % 7 === 0 ? null : 'v'.repeat(i % 300)]);
    const gap = Buffer.alloc((i * 37) % 600, 0xfe);
    parts.push(gap, tuple);
    starts.push(at + gap.length);
    at += gap.length + tuple.length;
  }
  const buffer = Buffer.concat(parts);
  const list = events(starts.map(() => ['c', table, ['0', '']] as const));
  const shared = list.map((event, i) =>
    Object.assign(Object.create(Object.getPrototypeOf(event)), event, { after: new Row(table, buffer, starts[i]!) }),
  );
  await sink.apply(delivery(shared));
  expect(
    await sink.rows(
      "SELECT count(*), count(DISTINCT i), sum(coalesce(length(v), 0)), count(*) FILTER (v IS NULL), count(*) FILTER (v <> repeat('v', i % 300)) FROM t",
    ),
  ).toEqual([
    [
      '5000',
      '5000',
      String(Array.from({ length: 5000 }, (_, i) => (i % 7 === 0 ? 0 : i % 300)).reduce((a, b) => a + b)),
      '715',
      '0',
    ],
  ]);
});
