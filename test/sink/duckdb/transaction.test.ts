import { describe, expect, test } from 'vitest';
import type { Delivery } from '../../../src/event/batch.ts';
import type { ChangeEvent } from '../../../src/event/change-event.ts';
import {
  type Change,
  delivery,
  enumOf,
  events,
  openSink,
  relation,
  snapshotEvents,
  type TestSink,
  type Values,
} from './support.ts';

const columns = [
  ['id', 'int8'],
  ['name', 'text'],
] as const;
const item = relation('item', columns);
const wider = relation('item', [...columns, ['extra', 'int4']]);
const other = relation('other', columns, { oid: 2 });
const all = 'SELECT * FROM item ORDER BY id';

const insert = (...list: readonly Values[]): Change[] => list.map((values): Change => ['c', item, values]);

/** One source transaction in deliveries of the given numbers of events; the last has the rest and is complete. */
function parts(transaction: readonly ChangeEvent[], ...sizes: readonly number[]): Delivery[] {
  const deliveries: Delivery[] = [];
  let from = 0;
  for (const size of [...sizes, transaction.length]) {
    const part = transaction.slice(from, from + size);
    from += part.length;
    const position = part.at(-1)!.position;
    deliveries.push({
      events: part,
      bytes: 1000,
      offsets: [{ partition: '', position, next: null }],
      complete: from === transaction.length,
    });
    if (from === transaction.length) break;
  }
  return deliveries;
}

async function apply(sink: TestSink, deliveries: readonly Delivery[]): Promise<boolean[]> {
  const results = [];
  for (const one of deliveries) results.push(await sink.apply(one));
  return results;
}

async function holding(...list: readonly Values[]): Promise<TestSink> {
  const sink = await openSink();
  await sink.apply(delivery(events(insert(...list))));
  return sink;
}

/** The rows now, and those that a crash would leave. */
async function both(sink: TestSink, sql = all): Promise<unknown> {
  const rows = await sink.rows(sql);
  expect(await (await sink.crashed()).rows(sql)).toEqual(rows);
  return rows;
}

describe('a source transaction in several deliveries', () => {
  test('is seen, and durable, when its end has come', async () => {
    const sink = await holding(['1', 'a']);
    const [first, second, last] = parts(
      events([
        ['u', item, ['1', 'b']],
        ['c', other, ['1', 'x']],
        ['c', item, ['2', 'c']],
      ]),
      1,
      1,
    );
    expect([await sink.apply(first!), await sink.apply(second!)]).toEqual([false, false]);
    expect(await both(sink)).toEqual([['1', 'a']]);
    const { state } = await sink.crashed();
    expect(state.offsets[0]!.position).not.toEqual(second!.offsets[0]!.position);
    expect(await sink.apply(last!)).toBe(true);
    expect(await both(sink)).toEqual([
      ['1', 'b'],
      ['2', 'c'],
    ]);
    expect((await sink.crashed()).state.offsets).toEqual(last!.offsets);
  });

  test('is forgotten when the sink is closed before its end', async () => {
    const sink = await holding(['1', 'a']);
    await sink.apply(parts(events(insert(['2', 'b'], ['3', 'c'])), 1)[0]!);
    await sink.close();
    expect(await (await openSink(sink.path)).rows(all)).toEqual([['1', 'a']]);
  });

  test('takes the same keys again and again, and truncates in between', async () => {
    const sink = await holding(['1', 'a'], ['2', 'b'], ['3', 'c']);
    const change = events([
      ['d', item, null, ['1', null]],
      ['u', item, ['2', 'b2']],
      ['c', item, ['1', 'a2']],
      ['d', item, null, ['1', null]],
      ['c', item, ['1', 'a3']],
      ['u', item, ['20', 'b3'], ['2', null]],
    ]);
    expect(await apply(sink, parts(change, 1, 1, 1, 1, 1))).toEqual([false, false, false, false, false, true]);
    expect(await both(sink)).toEqual([
      ['1', 'a3'],
      ['3', 'c'],
      ['20', 'b3'],
    ]);
    const emptied = events([
      ['u', item, ['3', 'c2']],
      ['t', item],
      ['c', item, ['3', 'c3']],
      ['t', item],
      ['c', item, ['3', 'c4']],
    ]);
    await apply(sink, parts(emptied, 1, 1, 1, 1));
    expect(await both(sink)).toEqual([['3', 'c4']]);
  });

  test('alters a table that it has deleted from', async () => {
    const sink = await holding(['1', 'a'], ['2', 'b'], ['3', 'c']);
    const change = events([
      ['u', item, ['1', 'a2']],
      ['d', item, null, ['2', null]],
      ['c', wider, ['2', 'b2', '22']],
      ['u', wider, ['3', 'c2', '33']],
    ]);
    await apply(sink, parts(change, 1, 1, 1));
    expect(await both(sink)).toEqual([
      ['1', 'a2', null],
      ['2', 'b2', 22],
      ['3', 'c2', 33],
    ]);
  });

  test('begins anew where a column must change in its middle', async () => {
    const sink = await openSink();
    const mood = (...labels: string[]) =>
      relation('mood', [
        ['id', 'int8'],
        ['m', enumOf('mood', ...labels)],
      ]);
    await sink.apply(delivery(events([['c', mood('ok'), ['1', 'ok']]])));
    const change = parts(
      events([
        ['c', mood('ok'), ['2', 'ok']],
        ['d', mood('ok'), null, ['1', null]],
        ['c', mood('ok'), ['3', 'new']],
      ]),
      1,
      1,
    );
    await sink.apply(change[0]!);
    await sink.apply(change[1]!);
    await expect(sink.apply(change[2]!)).rejects.toMatchObject({ code: 'SINK', retry: true });
    expect(await both(sink, 'SELECT * FROM mood')).toEqual([['1', 'ok']]);
    expect(await apply(sink, change)).toEqual([false, false, true]);
    expect(await both(sink, 'SELECT * FROM mood ORDER BY id')).toEqual([
      ['2', 'ok'],
      ['3', 'new'],
    ]);
  });

  test('fails as a whole', async () => {
    const sink = await holding(['1', 'a']);
    const twice = relation('item', [...columns, ['NAME', 'text']]);
    const [good, bad] = parts(
      events([
        ['u', item, ['1', 'b']],
        ['c', twice, ['2', 'c', 'C']],
      ]),
      1,
    );
    await sink.apply(good!);
    await expect(sink.apply(bad!)).rejects.toMatchObject({ code: 'SINK_REJECTED' });
    expect(await both(sink)).toEqual([['1', 'a']]);
    await sink.apply(delivery(events(insert(['3', 'c']))));
    expect(await both(sink)).toEqual([
      ['1', 'a'],
      ['3', 'c'],
    ]);
  });

  test('is committed in the middle past transactionBytesMax', async () => {
    const sink = await openSink(undefined, { transactionBytesMax: 1500 });
    const deliveries = parts(events(insert(['1', 'a'], ['2', 'b'], ['3', 'c'], ['4', 'd'])), 1, 1, 1);
    expect(await apply(sink, deliveries.slice(0, 3))).toEqual([false, true, false]);
    expect(await both(sink)).toEqual([
      ['1', 'a'],
      ['2', 'b'],
    ]);
    expect((await sink.crashed()).state.offsets).toEqual(deliveries[1]!.offsets);
    await sink.apply(deliveries[3]!);
    expect(await both(sink, 'SELECT count(*) FROM item')).toEqual([['4']]);
  });

  test('ends where the next begins, also where nobody said so', async () => {
    const sink = await openSink();
    const first = { ...parts(events(insert(['1', 'a'])))[0]!, complete: false };
    const next = parts(events(insert(['2', 'b'], ['3', 'c'])), 1);
    expect([await sink.apply(first), await sink.apply(next[0]!)]).toEqual([false, false]);
    expect(await both(sink)).toEqual([['1', 'a']]);
  });

  test('swaps in a shadow that it has deleted from', async () => {
    const sink = await holding(['1', 'a'], ['2', 'b'], ['9', 'gone']);
    const rows: Change[] = [
      ['r', item, ['1', 'a']],
      ['r', item, ['2', 'b']],
    ];
    await sink.apply(delivery(snapshotEvents('x', 'incremental', [['t', item], ...rows])));
    const change = events([
      ['d', item, null, ['1', null]],
      ['u', item, ['2', 'b2']],
    ]);
    const end = snapshotEvents('x', 'incremental', [['m', item]]);
    const [first] = parts([...change, ...end], 2);
    expect(await sink.apply(first!)).toBe(false);
    // As if the end belonged to the same transaction: then nothing is committed before it.
    const same = end.map(
      (event) =>
        Object.assign(Object.create(event), {
          transaction: {
            ...event.transaction,
            commitLsn: change[0]!.transaction.commitLsn,
          },
        }) as ChangeEvent,
    );
    expect(await sink.apply({ ...delivery(same), complete: true })).toBe(true);
    expect(await both(sink)).toEqual([['2', 'b2']]);
  });
});
