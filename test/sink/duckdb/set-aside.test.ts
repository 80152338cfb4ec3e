import { describe, expect, test } from 'vitest';
import { RejectedError } from '../../../src/errors.ts';
import type { Relation } from '../../../src/event/relation.ts';
import {
  arrayOf,
  type Change,
  changes,
  numericOf,
  openSink,
  relation,
  type TestSink,
  type,
  type Values,
} from './support.ts';

const table = (extra: Partial<Relation> = {}): Relation =>
  relation(
    't',
    [
      ['i', 'int4'],
      ['n', 'numeric', numericOf(6, 2)],
      ['body', 'text'],
    ],
    extra,
  );
const OPEN = 'SELECT op, "before", "after", reason FROM _waltide.dead_letters WHERE resolved_at IS NULL ORDER BY seq';
const rows = (sink: TestSink) => sink.rows('SELECT i, CAST(n AS VARCHAR), body FROM t ORDER BY i');

describe('onUnrepresentable: dead-letter', () => {
  const open = (at?: string): Promise<TestSink> => openSink(at, { onUnrepresentable: 'dead-letter' });

  test('sets the row aside with all that is known of it, and the others go on', async () => {
    const sink = await open();
    const t = table();
    await sink.apply(
      changes(['c', t, ['1', '1.00', 'a']], ['c', t, ['2', 'NaN', "b'\n"]], ['c', t, ['3', '3.00', null]]),
    );
    expect(await rows(sink)).toEqual([
      [1, '1.00', 'a'],
      [3, '3.00', null],
    ]);
    expect(await sink.rows(OPEN)).toEqual([
      ['c', null, '{"i":"2","n":"NaN","body":"b\'\\n"}', expect.stringMatching(/column "n": .*NaN.*DECIMAL\(6,2\)/)],
    ]);
    expect(sink.losses!()).toEqual({ textColumns: [], deadLetters: 1, nulled: 0 });
  });

  test('an updated row is absent until an update brings it whole', async () => {
    const sink = await open();
    const t = table();
    await sink.apply(changes(['c', t, ['1', '1.00', 'old']], ['c', t, ['2', '2.00', 'two']]));
    await sink.apply(changes(['u', t, ['1', 'NaN', 'new']]));
    expect(await rows(sink)).toEqual([[2, '2.00', 'two']]);
    // The sink does not know `new`, and `old` would be wrong.
    await sink.apply(changes(['u', t, ['1', '1.50', undefined]]));
    expect(await rows(sink)).toEqual([[2, '2.00', 'two']]);
    expect(await sink.rows(OPEN)).toEqual([['u', null, '{"i":"1","n":"1.50"}', expect.stringContaining('unchanged')]]);
    await sink.close();
    const again = await open(sink.path);
    await again.apply(changes(['u', t, ['1', '1.75', undefined]]));
    expect(await rows(again)).toEqual([[2, '2.00', 'two']]);
    await again.apply(changes(['u', t, ['1', '1.80', 'whole']]));
    expect(await rows(again)).toEqual([
      [1, '1.80', 'whole'],
      [2, '2.00', 'two'],
    ]);
    expect(await again.rows(OPEN)).toEqual([]);
    expect(again.losses!()).toMatchObject({ deadLetters: 0 });
  });

  test('is forgotten with the row in the source, and with a truncate', async () => {
    const sink = await open();
    const t = table();
    await sink.apply(changes(['c', t, ['1', 'NaN', 'a']], ['c', t, ['2', 'NaN', 'b']], ['c', t, ['3', 'NaN', 'c']]));
    await sink.apply(changes(['d', t, null, ['1', null, null]]));
    expect(sink.losses!()).toMatchObject({ deadLetters: 2 });
    await sink.apply(changes(['t', t], ['c', t, ['4', '4.00', null]]));
    expect(sink.losses!()).toMatchObject({ deadLetters: 0 });
    expect(await rows(sink)).toEqual([[4, '4.00', null]]);
    expect(await sink.rows('SELECT count(*) FROM _waltide.dead_letters')).toEqual([['3']]);
  });

  test('follows changes of keys, in one delivery and over several', async () => {
    const sink = await open();
    const t = table();
    await sink.apply(
      changes(
        ['c', t, ['1', '1.00', 'a']],
        ['u', t, ['10', 'NaN', 'a'], ['1', null, null]],
        ['u', t, ['11', '1.00', 'a'], ['10', null, null]],
        ['c', t, ['1', '2.00', 'b']],
      ),
    );
    expect(await rows(sink)).toEqual([
      [1, '2.00', 'b'],
      [11, '1.00', 'a'],
    ]);
    expect(await sink.rows(OPEN)).toEqual([]);
    await sink.apply(changes(['u', t, ['20', 'NaN', 'b'], ['1', null, null]]));
    await sink.apply(changes(['u', t, ['21', '5.00', undefined], ['20', null, null]]));
    expect(await rows(sink)).toEqual([[11, '1.00', 'a']]);
    expect(await sink.rows('SELECT "key" FROM _waltide.dead_letters WHERE resolved_at IS NULL')).toEqual([['["21"]']]);
  });

  test('a key that does not fit, and values that come from the old row', async () => {
    const sink = await open();
    const keyed = relation('k', [
      ['k', 'numeric', numericOf(6, 2)],
      ['v', 'int4'],
    ]);
    await sink.apply(changes(['c', keyed, ['NaN', '1']], ['c', keyed, ['1.00', '2']]));
    await sink.apply(changes(['u', keyed, ['NaN', '3']], ['u', keyed, ['2.00', '4'], ['NaN', null]]));
    await sink.apply(changes(['d', keyed, null, ['1.00', null]]));
    expect(await sink.rows('SELECT CAST(k AS VARCHAR), v FROM k')).toEqual([['2.00', 4]]);
    expect(sink.losses!()).toMatchObject({ deadLetters: 0 });
    const full = relation(
      'f',
      [
        ['i', 'int4'],
        ['l', arrayOf(type('int4'))],
      ],
      { replicaIdentity: 'f' },
    );
    await sink.apply(changes(['c', full, ['1', '{{1}}']], ['c', full, ['2', '{2}']]));
    await sink.apply(
      changes(['u', full, ['1', undefined], ['1', '{{1}}']], ['u', full, ['2', undefined], ['2', '{2}']]),
    );
    expect(await sink.rows('SELECT i, l FROM f')).toEqual([[2, [2]]]);
    expect(sink.losses!()).toMatchObject({ deadLetters: 1 });
  });

  test('a table without a key', async () => {
    const sink = await open();
    const bag = table({ key: [], replicaIdentity: 'f' });
    await sink.apply(changes(['c', bag, ['1', '1.00', 'a']], ['c', bag, ['1', 'NaN', 'a']]));
    await sink.apply(
      changes(['u', bag, ['1', 'NaN', 'b'], ['1', '1.00', 'a']], ['u', bag, ['1', '3.00', 'c'], ['1', 'NaN', 'a']]),
    );
    expect(await rows(sink)).toEqual([[1, '3.00', 'c']]);
    await sink.apply(changes(['d', bag, null, ['1', 'NaN', 'b']]));
    expect(await rows(sink)).toEqual([[1, '3.00', 'c']]);
    expect(sink.losses!()).toMatchObject({ deadLetters: 0 });
  });

  test('text that is not UTF-8 is kept in hex', async () => {
    const sink = await open();
    const values = ['1', null, Buffer.from([0x61, 0xff])] as unknown as Values;
    await sink.apply(changes(['c', table(), values]));
    expect(await sink.rows('SELECT "after" FROM _waltide.dead_letters')).toEqual([
      ['{"i":"1","n":null,"body":{"hex":"61ff"}}'],
    ]);
  });

  test('past a bound the table is set aside as a whole', async () => {
    const sink = await open();
    const t = table();
    const many = Array.from({ length: 10_001 }, (_, i) => ['c', t, [String(i), 'NaN', null]] as const);
    await expect(sink.apply(changes(...many))).rejects.toThrow(RejectedError);
    expect(sink.losses!()).toMatchObject({ deadLetters: 10_000 });
    await sink.apply(changes(['c', table({ table: 'other' }), ['1', 'NaN', null]]));
    expect(sink.losses!()).toMatchObject({ deadLetters: 1 });
  });
});

describe('onUnrepresentable: null', () => {
  test('stores NULL in place of the value, and counts it', async () => {
    const sink = await openSink(undefined, { onUnrepresentable: 'null' });
    const t = table();
    await sink.apply(changes(['c', t, ['1', '1.00', 'a']], ['c', t, ['2', 'NaN', 'b']]));
    await sink.apply(changes(['u', t, ['1', 'NaN', undefined]], ['u', t, ['2', '2.00', undefined]]));
    expect(await rows(sink)).toEqual([
      [1, null, 'a'],
      [2, '2.00', 'b'],
    ]);
    expect(sink.losses!()).toEqual({ textColumns: [], deadLetters: 0, nulled: 2 });
  });

  test('but not in a key: that row is set aside', async () => {
    const sink = await openSink(undefined, { onUnrepresentable: 'null' });
    const keyed = relation('k', [
      ['k', 'timestamp'],
      ['v', 'int4'],
    ]);
    await sink.apply(changes(['c', keyed, ['294276-01-01 00:00:00', '1']], ['c', keyed, ['infinity', '2']]));
    expect(await sink.rows('SELECT v FROM k')).toEqual([[2]]);
    expect(sink.losses!()).toMatchObject({ deadLetters: 1, nulled: 0 });
  });

  test('rows of a table without a key are found again as they are stored', async () => {
    const sink = await openSink(undefined, { onUnrepresentable: 'null' });
    const bag = table({ key: [], replicaIdentity: 'f' });
    await sink.apply(changes(['c', bag, ['1', 'NaN', 'a']], ['c', bag, ['2', 'NaN', 'b']]));
    await sink.apply(changes(['d', bag, null, ['1', 'NaN', 'a']]));
    expect(await rows(sink)).toEqual([[2, null, 'b']]);
  });
});

describe('what not even text holds is set aside, whatever the policy but null', () => {
  const bad = ['2', 'NaN', Buffer.from([0x61, 0xff])] as unknown as Values;

  test.each(['text', 'dead-letter'] as const)('%s: bytes that are no UTF-8', async (onUnrepresentable) => {
    const sink = await openSink(undefined, { onUnrepresentable });
    const t = table();
    await sink.apply(changes(['c', t, ['1', '1.00', 'a']], ['c', t, bad], ['u', t, ['1', '2.00', undefined]]));
    expect(await sink.rows('SELECT i, body FROM t')).toEqual([[1, 'a']]);
    expect(sink.losses!()).toEqual({ textColumns: [], deadLetters: 1, nulled: 0 });
    await sink.apply(changes(['u', t, ['2', '3.00', 'mended']]));
    expect(await sink.rows('SELECT i, body FROM t ORDER BY i')).toEqual([
      [1, 'a'],
      [2, 'mended'],
    ]);
    expect(sink.losses!()).toMatchObject({ deadLetters: 0 });
  });

  test('null: such bytes are NULL', async () => {
    const sink = await openSink(undefined, { onUnrepresentable: 'null' });
    await sink.apply(changes(['c', table(), bad]));
    expect(await rows(sink)).toEqual([[2, null, null]]);
    expect(sink.losses!()).toMatchObject({ nulled: 2 });
  });

  test.each([undefined, 'f'] as const)('rows past rowBytesMax, among others, under identity %s', async (identity) => {
    const sink = await openSink(undefined, { rowBytesMax: 10_000 });
    const t = table(identity ? { replicaIdentity: identity } : {});
    const long = 'x'.repeat(20_000);
    const update = (after: Values, before: Values): Change => (identity ? ['u', t, after, before] : ['u', t, after]);
    await sink.apply(
      changes(['c', t, ['1', '1.00', 'a']], ['c', t, ['2', '2.00', long]], ['c', t, ['3', '3.00', 'b']]),
    );
    expect(await rows(sink)).toEqual([
      [1, '1.00', 'a'],
      [3, '3.00', 'b'],
    ]);
    expect(await sink.rows('SELECT reason FROM _waltide.dead_letters')).toEqual([
      [expect.stringMatching(/^column "body": the row has 200\d\d bytes, more than rowBytesMax \(10000\)$/)],
    ]);
    await sink.apply(changes(update(['2', '2.50', undefined], ['2', '2.00', long])));
    await sink.apply(changes(update(['1', '1.00', long], ['1', '1.00', 'a'])));
    expect(await rows(sink)).toEqual([[3, '3.00', 'b']]);
    await sink.apply(changes(update(['2', '2.75', 'short'], ['2', '2.50', long])));
    await sink.apply(changes(['d', t, null, identity ? ['1', '1.00', long] : ['1', null, null]]));
    expect(await rows(sink)).toEqual([
      [2, '2.75', 'short'],
      [3, '3.00', 'b'],
    ]);
    expect(sink.losses!()).toMatchObject({ deadLetters: 0 });
  });
});

test('under text the columns are named', async () => {
  const sink = await openSink();
  await sink.apply(changes(['c', table(), ['1', 'NaN', 'a']]));
  expect(sink.losses!()).toEqual({ textColumns: ['public.t.n'], deadLetters: 0, nulled: 0 });
});
