import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ChangeEvent } from '../../../src/event/change-event.ts';
import { CopiedRows, CopyEvent, countRows, eachRow } from '../../../src/event/copied-rows.ts';
import { copyLine } from '../../support/copy-line.ts';
import {
  arrayOf,
  delivery,
  enumOf,
  events,
  numericOf,
  openSink,
  relation,
  snapshotEvents,
  type Values,
} from './support.ts';

/*
 * Goal: rows that are loaded as COPY sent them are the rows that single events would bring. Method: both roads, in two
 * files, compared value by value; the blocks are cut at random and have bytes between their rows, as the wire has.
 */
const columns = [
  ['id', 'int8'],
  ['t', 'text'],
  ['n', 'numeric', numericOf(20, 4)],
  ['b', 'bytea'],
  ['at', 'timestamptz'],
  ['l', arrayOf(relation('x', [['c', 'text']]).columns[0]!.type)],
  ['f', 'float8'],
] as const;
const item = relation('item', columns);
const bag = relation('bag', columns, { key: [] });

const optional = <T extends string>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<string | null> =>
  fc.option(arbitrary, { nil: null });
const text = fc.string({
  unit: fc.constantFrom('a', 'Z', '\\', '\t', '\n', '\r', '\b', '\v', '\f', 'N', 'é', '😀', '.', '"', ','),
});
const rest = fc.tuple(
  optional(
    fc.oneof(
      text,
      fc.array(text, { maxLength: 12 }).map((all) => all.join('long enough for words')),
    ),
  ),
  optional(fc.integer().map((i) => `${i}.${String(Math.abs(i) % 10_000).padStart(4, '0')}`)),
  optional(fc.uint8Array({ maxLength: 40 }).map((bytes) => `\\x${Buffer.from(bytes).toString('hex')}`)),
  optional(
    fc.constantFrom('2026-01-01 00:00:00+00', '1999-12-31 23:59:59.999999+00', '0044-03-15 12:00:00+00 BC', 'infinity'),
  ),
  optional(
    fc
      .array(text, { maxLength: 3 })
      .map((all) => `{${all.map((one) => `"${one.replace(/["\\]/g, '\\$&')}"`).join(',')}}`),
  ),
  optional(
    fc
      .double({ noNaN: true })
      .map((number) => (Object.is(number, -0) ? '-0' : String(number).replace('Infinity', 'Infinity'))),
  ),
);

/** The rows in blocks of these sizes (the last one again and again), with the head of a message before each. */
function blocks(of: typeof item, rows: readonly Values[], sizes: readonly number[]): CopiedRows[] {
  const all: CopiedRows[] = [];
  for (let from = 0, i = 0; from < rows.length; i++) {
    const some = rows.slice(from, from + (sizes[i] ?? sizes.at(-1) ?? rows.length));
    from += some.length;
    const starts: number[] = [];
    const ends: number[] = [];
    const parts: Buffer[] = [];
    let length = 0;
    for (const values of some) {
      const line = copyLine(values as readonly (string | null)[]);
      const head = Buffer.from([0x64, 0, 0xff, 0xc3, 0x28]);
      starts.push(length + head.length);
      length += head.length + line.length;
      ends.push(length);
      parts.push(head, line);
    }
    all.push(new CopiedRows(of, Buffer.concat(parts), Int32Array.from(starts), Int32Array.from(ends)));
  }
  return all;
}

function copied(of: typeof item, rows: readonly Values[], sizes: readonly number[]): ChangeEvent[] {
  const [begin, end] = snapshotEvents('copy', 'initial', [
    ['t', of],
    ['m', of],
  ]) as [ChangeEvent, ChangeEvent];
  let seq = 1;
  const events = blocks(of, rows, sizes).map((block) => {
    seq += block.count;
    return new CopyEvent(begin.transaction, seq, seq, 0n, block);
  });
  return [begin, ...events, end];
}

const numbered = (rows: readonly Values[]): Values[] => rows.map((values, i) => [String(i), ...values]);

describe('rows as COPY sent them', () => {
  test('are those of single events, whatever they hold and however they are cut', async () => {
    const [one, other] = [await openSink(), await openSink()];
    await fc.assert(
      fc.asyncProperty(
        fc.array(rest, { minLength: 1, maxLength: 60 }),
        fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 4 }),
        fc.constantFrom(item, bag),
        async (values, sizes, of) => {
          const events = copied(of, numbered(values), sizes);
          expect(countRows(events)).toBe(values.length + 2);
          await one.apply(delivery(events));
          await other.apply(delivery(eachRow(events)));
          const all = `SELECT columns(*)::varchar FROM ${of.table} ORDER BY id::int`;
          expect(await one.rows(all)).toEqual(await other.rows(all));
          expect(await one.rows(`DESCRIBE ${of.table}`)).toEqual(await other.rows(`DESCRIBE ${of.table}`));
          expect((await one.rows(all)).map(([id, t]) => [id, t])).toEqual(values.map(([t], i) => [String(i), t]));
        },
      ),
      { numRuns: 30 },
    );
  }, 300_000);

  test('fill many chunks, over the ends of blocks, with rows that are wider than a chunk', async () => {
    const rows = Array.from({ length: 9000 }, (_, i): Values => {
      const t = i % 3000 === 7 ? `${'wide\t'.repeat(1_000_000)}${i}` : `row ${i}\n`;
      return [String(i), t, null, null, null, null, String(i / 8)];
    });
    const sink = await openSink(undefined, { memoryLimit: '1GB' });
    await sink.apply(delivery(copied(item, rows, [1, 5000, 700])));
    expect(await sink.rows('SELECT count(*)::int, count(DISTINCT id)::int, max(length(t))::int FROM item')).toEqual([
      [9000, 9000, 5_000_004],
    ]);
    const wide = (id: number) =>
      createHash('md5')
        .update(`${'wide\t'.repeat(1_000_000)}${id}`)
        .digest('hex');
    expect(await sink.rows('SELECT id::int, md5(t) FROM item WHERE id % 3000 = 7 ORDER BY id')).toEqual(
      [7, 3007, 6007].map((id) => [id, wide(id)]),
    );
    expect(
      await sink.rows(
        "SELECT count(*)::int FROM item WHERE id % 3000 <> 7 AND (t <> 'row ' || id || chr(10) OR f <> id / 8)",
      ),
    ).toEqual([[0]]);
  }, 300_000);

  test('of a chunk that fills a row group go past the log, whatever streamed changes are there already', async () => {
    const sink = await openSink(undefined, { memoryLimit: '1GB' });
    const rows = numbered(Array.from({ length: 125_000 }, () => ['same', null, null, null, null, null]));
    const [begin, end] = snapshotEvents('big', 'incremental', [
      ['t', item],
      ['m', item],
    ]) as [ChangeEvent, ChangeEvent];
    await sink.apply(delivery([begin]));
    await sink.apply(delivery(events([['u', item, ['7', 'changed', null, null, null, null, null]]])));
    const logBytes = (): number => statSync(`${sink.path}.wal`).size;
    const before = logBytes();
    let seq = 1;
    const chunk = blocks(item, rows, [450]).map((block) => {
      seq += block.count;
      return new CopyEvent(begin.transaction, seq, seq, 0n, block);
    });
    await sink.apply(delivery(chunk));
    expect(logBytes() - before).toBeLessThan(500_000);
    await sink.apply(delivery([end]));
    expect(await sink.rows("SELECT count(*)::int, count(*) FILTER (t = 'same')::int FROM item")).toEqual([
      [125_000, 125_000],
    ]);
  }, 300_000);

  test('of several row groups fill whole ones, whichever threads store them', async () => {
    const sink = await openSink(undefined, { memoryLimit: '1GB' });
    const group = 122_880;
    const total = 2 * group + 1000;
    const rows = numbered(Array.from({ length: total }, (_, i) => [`row ${i}`, null, null, null, null, null]));
    const loaded = copied(item, rows, [50_000, 7, 90_001]);
    await sink.apply(delivery(loaded));
    expect(
      await sink.rows(
        "SELECT count(*)::int, count(DISTINCT id)::int, count(*) FILTER (t = 'row ' || id)::int FROM item",
      ),
    ).toEqual([[total, total, total]]);
    const groups = await sink.rows(
      `SELECT sum(count)::int AS rows FROM pragma_storage_info('item') WHERE column_id = 0 AND segment_type = 'BIGINT'
       GROUP BY row_group_id ORDER BY 1`,
    );
    expect(groups).toEqual([[1000], [group], [group]]);
  }, 300_000);

  test('change a column, extend an enum, and are set aside, as single events do', async () => {
    const mood = relation('mood', [
      ['id', 'int8'],
      ['m', enumOf('mood', 'sad', 'ok')],
      ['n', 'numeric', numericOf(6, 2)],
    ]);
    const rows = Array.from({ length: 5000 }, (_, i): Values => [String(i), i === 4000 ? 'new' : 'ok', '1.50']);
    const odd = [...rows, ['5000', 'ok', 'NaN']];
    const text = await openSink();
    await text.apply(delivery(copied(mood, odd, [999])));
    expect(
      await text.rows('SELECT m::varchar, n::varchar FROM mood WHERE id IN (4000, 4999, 5000) ORDER BY id'),
    ).toEqual([
      ['new', '1.50'],
      ['ok', '1.50'],
      ['ok', 'NaN'],
    ]);
    const letters = await openSink(undefined, { onUnrepresentable: 'dead-letter' });
    await letters.apply(delivery(copied(mood, odd, [999])));
    expect(await letters.rows('SELECT count(*)::int, max(id)::int, typeof(any_value(n)) FROM mood')).toEqual([
      [5000, 4999, 'DECIMAL(6,2)'],
    ]);
    expect(await letters.rows('SELECT "after" FROM _waltide.dead_letters')).toEqual([
      ['{"id":"5000","m":"ok","n":"NaN"}'],
    ]);
  });
});
