import { describe, expect, test } from 'vitest';
import { RejectedError } from '../../../src/errors.ts';
import type { Relation } from '../../../src/event/relation.ts';
import { arrayOf, changes, delivery, enumOf, events, numericOf, openSink, relation, type } from './support.ts';

const v1 = relation('t', [
  ['id', 'int4'],
  ['a', 'text'],
]);

describe('a relation that changes', () => {
  test('gets new columns, keeps dropped ones with NULL from then on', async () => {
    const sink = await openSink();
    const v2 = relation('t', [
      ['id', 'int4'],
      ['a', 'text'],
      ['b', 'int8'],
    ]);
    const v3 = relation(
      't',
      [
        ['b', 'int8'],
        ['id', 'int4'],
      ],
      { key: [1] },
    );
    await sink.apply(changes(['c', v1, ['1', 'x']]));
    await sink.apply(changes(['c', v2, ['2', 'y', '20']]));
    await sink.apply(changes(['c', v3, ['30', '3']], ['u', v3, ['21', '2']]));
    expect(await sink.rows('SELECT id, a, b FROM t ORDER BY id')).toEqual([
      [1, 'x', null],
      [2, null, '21'],
      [3, null, '30'],
    ]);
  });

  test('several times within one delivery that also deletes, updates and truncates', async () => {
    const sink = await openSink();
    const v2 = relation('t', [
      ['id', 'int8'],
      ['a', 'text'],
      ['b', 'int2'],
    ]);
    const v3 = relation('t', [
      ['id', 'int8'],
      ['b', 'int4'],
    ]);
    await sink.apply(changes(['c', v1, ['1', 'x']], ['c', v1, ['2', 'long'.repeat(900)]], ['c', v1, ['3', 'z']]));
    await sink.apply(
      delivery(
        events([
          ['d', v1, null, ['1', null]],
          ['c', v1, ['4', 'w']],
        ]),
        events([
          ['u', v2, ['2', undefined, '7']],
          ['u', v2, ['40000000000', 'w2', '8'], ['4', null, null]],
        ]),
        events([
          ['u', v3, ['3', '100000']],
          ['d', v3, null, ['40000000000', null]],
          ['c', v3, ['5', null]],
        ]),
      ),
    );
    expect(await sink.rows('SELECT id, a, b FROM t ORDER BY id')).toEqual([
      ['2', 'long'.repeat(900), 7],
      ['3', null, 100000],
      ['5', null, null],
    ]);
    const v4 = relation('t', [
      ['id', 'int8'],
      ['b', 'int4'],
      ['c', 'text'],
    ]);
    await sink.apply(
      delivery(
        events([
          ['d', v3, null, ['5', null]],
          ['t', v3],
        ]),
        events([['c', v4, ['6', '1', 'q']]]),
      ),
    );
    expect(await sink.rows('SELECT id, a, b, c FROM t')).toEqual([['6', null, 1, 'q']]);
  });

  test('whose column is dropped and added again holds none of the old values', async () => {
    const sink = await openSink();
    const without = relation('t', [['id', 'int4']]);
    const again = relation('t', [
      ['id', 'int4'],
      ['a', 'int4'],
    ]);
    await sink.apply(changes(['c', v1, ['1', 'x']]));
    await sink.apply(changes(['c', without, ['2']]));
    await sink.apply(changes(['c', again, ['3', '33']]));
    expect(await sink.rows('SELECT id, a FROM t ORDER BY id')).toEqual([
      [1, null],
      [2, null],
      [3, 33],
    ]);
    await sink.apply(
      delivery(
        events([['c', again, ['4', '44']]]),
        events([['c', without, ['5']]]),
        events([['c', v1, ['6', 'text']]]),
      ),
    );
    expect(await sink.rows('SELECT id, a FROM t ORDER BY id')).toEqual([
      [1, null],
      [2, null],
      [3, null],
      [4, null],
      [5, null],
      [6, 'text'],
    ]);
  });

  const single = (of: Parameters<typeof type>[0] | ReturnType<typeof type>, modifier = -1): Relation =>
    relation('t', [
      ['id', 'int4'],
      ['v', typeof of === 'string' ? type(of) : of, modifier],
    ]);

  test.each([
    ['int2 → int8', single('int2'), '7', single('int8'), '9223372036854775807', ['7', '9223372036854775807']],
    ['int4 → numeric(12,2)', single('int4'), '7', single('numeric', numericOf(12, 2)), '8.25', ['7.00', '8.25']],
    [
      'numeric(6,2) → numeric(30,4)',
      single('numeric', numericOf(6, 2)),
      '7.10',
      single('numeric', numericOf(30, 4)),
      '8.1234',
      ['7.1000', '8.1234'],
    ],
    ['numeric(6,2) → numeric', single('numeric', numericOf(6, 2)), '7.10', single('numeric'), 'NaN', ['7.10', 'NaN']],
    ['varchar(5) → text', single('varchar', 9), 'abc', single('text'), 'abcdefgh', ['abc', 'abcdefgh']],
    ['float4 → float8', single('float4'), '0.1', single('float8'), '0.1', [0.10000000149011612, 0.1]],
    [
      'date → timestamp',
      single('date'),
      'infinity',
      single('timestamp'),
      '2026-01-02 03:04:05',
      ['infinity', '2026-01-02 03:04:05'],
    ],
    [
      'int4[] → int8[]',
      single(arrayOf(type('int4'))),
      '{1,NULL}',
      single(arrayOf(type('int8'))),
      '{5000000000}',
      [['1', null], ['5000000000']],
    ],
    [
      'enum with a new label',
      single(enumOf('mood', 'sad', 'ok')),
      'ok',
      single(enumOf('mood', 'sad', 'meh', 'ok')),
      'meh',
      ['ok', 'meh'],
    ],
    ['enum → text', single(enumOf('mood', 'sad', 'ok')), 'ok', single('text'), 'other', ['ok', 'other']],
  ])('widens %s', async (_name, before, old, after, next, expected) => {
    const sink = await openSink();
    await sink.apply(changes(['c', before, ['1', old]], ['c', before, ['9', old]]));
    await sink.apply(changes(['d', before, null, ['9', null]], ['c', after, ['2', next]]));
    expect((await sink.rows('SELECT v FROM t ORDER BY id')).flat(1)).toEqual(expected);
  });

  test.each([
    ['int8 → int4', single('int8'), single('int4')],
    ['text → int4', single('text'), single('int4')],
    ['char(3) → char(5)', single('bpchar', 7), single('bpchar', 9)],
    ['numeric → numeric(6,2)', single('numeric'), single('numeric', numericOf(6, 2))],
    ['json → jsonb', single('json'), single('jsonb')],
    ['timestamp → timestamptz', single('timestamp'), single('timestamptz')],
    ['a renamed enum label', single(enumOf('mood', 'sad', 'ok')), single(enumOf('mood', 'sad', 'fine'))],
  ])('is refused where stored values may differ afterwards: %s', async (_name, before, after) => {
    const sink = await openSink();
    await sink.apply(changes(['t', before]));
    await expect(sink.apply(changes(['t', after]))).rejects.toThrow(/column "v" of public\.t changed its type/);
    await expect(sink.apply(changes(['t', after]))).rejects.toBeInstanceOf(RejectedError);
  });

  test('is refused where the table was dropped and created again: its rows went without a word', async () => {
    const sink = await openSink();
    await sink.apply(changes(['c', v1, ['1', 'x']]));
    await expect(sink.apply(changes(['c', { ...v1, oid: 5 }, ['1', 'y']]))).rejects.toThrow(
      /dropped and created again/,
    );
  });

  test('survives a restart', async () => {
    const sink = await openSink();
    await sink.apply(changes(['c', v1, ['1', 'x']]));
    await sink.close();
    const again = await openSink(sink.path);
    const v2 = relation('t', [
      ['id', 'int8'],
      ['b', 'date'],
    ]);
    await again.apply(changes(['c', v2, ['2', '2026-01-01']]));
    expect(await again.rows('SELECT id, a, b FROM t ORDER BY id')).toEqual([
      ['1', 'x', null],
      ['2', null, '2026-01-01'],
    ]);
  });
});

describe('an enum label that nobody announced', () => {
  test('is taken into the ENUM with the rows that bring it', async () => {
    const sink = await openSink();
    const of = relation('t', [
      ['id', 'int4'],
      ['m', enumOf('mood', 'sad', 'ok')],
    ]);
    await sink.apply(changes(['c', of, ['1', 'ok']], ['c', of, ['2', null]]));
    await sink.apply(changes(['c', of, ['3', 'größer']], ['c', of, ['4', "o'k"]]));
    await sink.apply(changes(['c', of, ['5', 'größer']]));
    expect(await sink.rows('SELECT id, m, typeof(m) FROM t ORDER BY id')).toEqual(
      [
        [1, 'ok'],
        [2, null],
        [3, 'größer'],
        [4, "o'k"],
        [5, 'größer'],
      ].map((row) => [...row, "ENUM('sad', 'ok', 'größer', 'o''k')"]),
    );
    await sink.close();
    const again = await openSink(sink.path);
    await again.apply(changes(['c', of, ['6', "o'k"]]));
    expect(await again.rows('SELECT count(*) FROM t')).toEqual([['6']]);
  });
});
