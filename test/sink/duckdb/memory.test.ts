import { expect, test } from 'vitest';
import { CopiedRows, CopyEvent } from '../../../src/event/copied-rows.ts';
import { Memory } from '../../../src/sink/duckdb/memory.ts';
import { type Change, changes, delivery, openSink, relation, snapshotEvents } from './support.ts';

/*
 * Goal: a sink whose memory is too small for a batch goes on, with every row. DuckDB keeps 32 kB in memory for each 2,048 rows of
 * which one was deleted, until the file is opened again; and what a DELETE has marked before it ran out of memory is never
 * unmarked: from then on whoever deletes these rows is refused, as if somebody else wrote. Method: a table of which a few rows
 * everywhere are updated again and again, with the least memory there is; the rows are counted and summed at the end.
 */
const ROWS = 9_000_000;
const BLOCK = 500_000;
const STEP = 1_999;
const wide = relation('wide', [
  ['id', 'int4'],
  ['n', 'int4'],
]);

function block(from: number): CopiedRows {
  const starts = new Int32Array(BLOCK);
  const ends = new Int32Array(BLOCK);
  const lines: string[] = [];
  let length = 0;
  for (let i = 0; i < BLOCK; i++) {
    const line = `${from + i}\t0\n`;
    lines.push(line);
    starts[i] = length;
    length += line.length;
    ends[i] = length;
  }
  return new CopiedRows(wide, Buffer.from(lines.join(''), 'latin1'), starts, ends);
}

test('updates of rows all over a large table go on where they need more memory than there is', async () => {
  const sink = await openSink(undefined, { memoryLimit: '64MB' });
  const [begin, end] = snapshotEvents('copy', 'initial', [
    ['t', wide],
    ['m', wide],
  ]);
  await sink.apply(delivery([begin!]));
  let seq = 1;
  for (let from = 0; from < ROWS; from += BLOCK) {
    seq += BLOCK;
    await sink.apply(delivery([new CopyEvent(begin!.transaction, seq, seq, 0n, block(from))]));
  }
  await sink.apply(delivery([end!]));
  let sum = 0;
  for (let round = 1; round <= 12; round++) {
    const list: Change[] = [];
    for (let id = round; id < ROWS; id += STEP) {
      list.push(['u', wide, [String(id), String(round)]]);
      sum += round;
    }
    await sink.apply(changes(...list));
  }
  await sink.close();
  const roomy = await openSink(sink.path, { memoryLimit: '1GB' });
  expect(await roomy.rows('SELECT count(*)::int, count(DISTINCT id)::int, sum(n)::int FROM wide')).toEqual([
    [ROWS, ROWS, sum],
  ]);
}, 300_000);

test('more memory is given by steps up to four times the limit, and more at once for a long value', () => {
  const memory = new Memory();
  const half = 80 << 20;
  expect(memory.bytes(1, half)).toBe(null);
  expect(memory.bytes(1 << 30, half)).toBe(null);
  expect(memory.raise()).toBe(true);
  expect([memory.bytes(1, half), memory.bytes(64 << 20, half)]).toEqual([0, 256 << 20]);
  expect([memory.raise(), memory.raise(), memory.raise()]).toEqual([true, true, false]);
  expect(memory.bytes(1, half)).toBe(6 * half);
});
