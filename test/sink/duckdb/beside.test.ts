import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import type { ChangeEvent } from '../../../src/event/change-event.ts';
import { CopiedRows, CopyEvent } from '../../../src/event/copied-rows.ts';
import type * as Settle from '../../../src/sink/duckdb/chunk-settle.ts';
import { Overtaken } from '../../../src/sink/duckdb/overtaken.ts';
import { damage } from '../../support/compare.ts';
import { copyLine } from '../../support/copy-line.ts';
import {
  type Change,
  changes,
  delivery,
  events,
  openSink,
  relation,
  snapshotEvents,
  type TestSink,
  type Values,
} from './support.ts';

/*
 * Goal: a chunk of a snapshot that is applied beside the changes after it leaves the table as if each had had its turn. Method:
 * chunks and changes of a few keys, drawn at random, on a real file; changes are applied while chunks are being loaded; what the
 * table is in the end is compared with a map that was kept in order.
 */
const item = relation('item', [
  ['id', 'int4'],
  ['v', 'text'],
]);
const pair = relation(
  'pair',
  [
    ['a', 'text'],
    ['b', 'int4'],
    ['v', 'text'],
  ],
  { key: [0, 1] },
);
const other = relation('other', [['id', 'int4']]);

const copied = (of: typeof item, rows: readonly Values[]): CopiedRows => {
  const lines = rows.map((values) => copyLine(values as readonly (string | null)[]));
  const ends = lines.map((_, i) => lines.slice(0, i + 1).reduce((sum, line) => sum + line.length, 0));
  return new CopiedRows(
    of,
    Buffer.concat(lines),
    Int32Array.from(ends, (end, i) => end - lines[i]!.length),
    Int32Array.from(ends),
  );
};

function chunk(of: typeof item, rows: readonly Values[], id = 'snap'): ChangeEvent[] {
  const [head] = snapshotEvents(id, 'incremental', [['r', of, rows[0]!]]);
  return [new CopyEvent(head!.transaction, rows.length, rows.length, 0n, copied(of, rows))];
}

const begin = (of: typeof item) => delivery(snapshotEvents('snap', 'incremental', [['t', of]]));
const end = (of: typeof item) => delivery(snapshotEvents('snap', 'incremental', [['m', of]]));
const all = 'SELECT id::int, v FROM item ORDER BY ALL';

async function filling(of = item, ...stored: Values[]): Promise<TestSink> {
  const sink = await openSink();
  await sink.apply(begin(of));
  if (stored.length > 0) await sink.apply(changes(...stored.map((values): Change => ['c', of, values])));
  return sink;
}

const KEYS = 12;
const key = fc.integer({ min: 0, max: KEYS - 1 });
type Step =
  | { readonly chunk: readonly number[] }
  | { readonly set: number }
  | { readonly drop: number }
  | { readonly move: [number, number] };
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ chunk: fc.uniqueArray(key, { minLength: 1 }) }) },
  { weight: 4, arbitrary: fc.record({ set: key }) },
  { weight: 2, arbitrary: fc.record({ drop: key }) },
  { weight: 1, arbitrary: fc.record({ move: fc.tuple(key, key) }) },
);

test('whatever is changed while chunks are loaded, the table is what each in its turn would have made it', async () => {
  let beside = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 2, maxLength: 14 }), async (steps) => {
      const sink = await filling();
      /** What the source has, which is what a chunk brings of it. */
      const source = new Map<number, string>();
      for (let i = 0; i < KEYS; i++) source.set(i, `row ${i}`);
      const held = new Map<number, string>();
      const row = (id: number, v: string): Values => [String(id), v];
      const open: Promise<boolean>[] = [];
      for (const [n, one] of steps.entries()) {
        if ('chunk' in one) {
          const rows = one.chunk.filter((id) => source.has(id));
          if (rows.length === 0) continue;
          const loading = await sink.beside!(
            delivery(
              chunk(
                item,
                rows.map((id) => row(id, source.get(id)!)),
              ),
            ),
          );
          expect(loading).not.toBeNull();
          beside++;
          open.push(loading!.done);
          passing.push(loading!);
          for (const id of rows) held.set(id, source.get(id)!);
          continue;
        }
        const list: Change[] = [];
        if ('set' in one) {
          list.push([source.has(one.set) ? 'u' : 'c', item, row(one.set, `step ${n}`)]);
          source.set(one.set, `step ${n}`);
          held.set(one.set, `step ${n}`);
        } else if ('drop' in one) {
          if (!source.delete(one.drop)) continue;
          held.delete(one.drop);
          list.push(['d', item, null, row(one.drop, '')]);
        } else {
          const [from, to] = one.move;
          if (from === to || !source.has(from) || source.has(to)) continue;
          source.delete(from);
          held.delete(from);
          source.set(to, `moved ${n}`);
          held.set(to, `moved ${n}`);
          list.push(['u', item, row(to, `moved ${n}`), row(from, '')]);
        }
        const batch = changes(...list);
        for (const loading of passing) expect(loading.passes(batch.events)).toBe(true);
        await sink.apply(batch);
      }
      expect(await Promise.all(open)).toEqual(open.map(() => true));
      await sink.apply(end(item));
      expect(await sink.rows(all)).toEqual([...held].sort(([a], [b]) => a - b));
      passing.length = 0;
      await sink.close();
    }),
    { numRuns: 40 },
  );
  expect(beside).toBeGreaterThan(40);
}, 300_000);

const passing: { passes(events: readonly ChangeEvent[]): boolean }[] = [];

describe('a chunk beside the stream', () => {
  test('is whole or not there after a crash, and read again it leaves each row once', async () => {
    const sink = await filling(item, ['1', 'streamed'], ['2', 'streamed']);
    const rows: Values[] = [
      ['1', 'streamed'],
      ['2', 'streamed'],
      ['3', 'copied'],
    ];
    const loading = (await sink.beside!(delivery(chunk(item, rows))))!;
    const batch = changes(['u', item, ['2', 'later']]);
    expect(loading.passes(batch.events)).toBe(true);
    await sink.apply(batch);
    expect(await loading.done).toBe(true);
    const again = await sink.crashed();
    const second = (await again.beside!(delivery(chunk(item, [rows[0]!, ['2', 'later'], rows[2]!]))))!;
    expect(await second.done).toBe(true);
    await again.apply(end(item));
    expect(await again.rows(all)).toEqual([
      [1, 'streamed'],
      [2, 'later'],
      [3, 'copied'],
    ]);
  });

  test('whose process died before it had settled what the chunk replaces is settled when the file is opened', async () => {
    const sink = await filling(item, ['1', 'streamed'], ['2', 'streamed'], ['3', 'streamed']);
    await sink.close();
    // Row 2 was changed while the chunk was loaded, 4 was deleted; 1 is the same in both.
    await damage(
      sink.path,
      `INSERT INTO "_waltide_shadow_item" VALUES (1, 'copied'), (2, 'stale'), (4, 'stale'), (5, 'copied')`,
      'CREATE TABLE _waltide."chunk of main._waltide_shadow_item" (k0 INTEGER, gone BOOLEAN)',
      'INSERT INTO _waltide."chunk of main._waltide_shadow_item" VALUES (1, false), (2, false), (2, true), (4, true)',
    );
    const again = await openSink(sink.path);
    await again.apply(end(item));
    expect(await again.rows(all)).toEqual([
      [1, 'copied'],
      [2, 'streamed'],
      [3, 'streamed'],
      [5, 'copied'],
    ]);
    expect(await again.rows("SELECT count(*)::int FROM duckdb_tables() WHERE table_name LIKE 'chunk%'")).toEqual([[0]]);
  });

  test('that cannot be loaded is left to its turn, without the rows that were changed meanwhile', async () => {
    const sink = await filling();
    const loading = (await sink.beside!(
      delivery(
        chunk(item, [
          ['1', 'a'],
          ['2', 'b'],
          ['not a number', 'c'],
        ]),
      ),
    ))!;
    const batch = changes(['u', item, ['2', 'later']]);
    expect(loading.passes(batch.events)).toBe(true);
    expect(await loading.done).toBe(false);
    await sink.apply(batch);
    const { events: rest } = await loading.rest();
    expect((rest[0] as CopyEvent).copied.rows().map((row) => row.text(0))).toEqual(['1', 'not a number']);
    await sink.apply(delivery(rest));
    await sink.apply(end(item));
    expect(await sink.rows('SELECT id, v FROM item ORDER BY id')).toEqual([
      ['1', 'a'],
      ['2', 'later'],
      ['not a number', 'c'],
    ]);
  });

  test('is given up where the sink is closed, or the table is stopped', async () => {
    const sink = await filling();
    const rows = Array.from({ length: 5000 }, (_, i): Values => [String(i), 'x']);
    const closed = (await sink.beside!(delivery(chunk(item, rows))))!;
    await sink.close();
    expect(await closed.done).toBe(false);
    const again = await openSink(sink.path);
    // The second waits for the first, which waits for its turn.
    const both = [0, 1].map(() => again.beside!(delivery(chunk(item, rows))));
    const [first, second] = await Promise.all(both);
    await first!.done;
    await again.apply(changes(['c', item, ['70000', 'x']]));
    const third = (await again.beside!(delivery(chunk(item, rows))))!;
    const fourth = (await again.beside!(delivery(chunk(item, rows))))!;
    const stopping = again.stopTable(item, 'a test', { snapshotGoesOn: true, refill: false });
    await Promise.all([second!.done, third.done, fourth.done, stopping]);
    const stopped = (await again.beside!(delivery(chunk(item, rows))))!;
    await again.stopTable(item, 'a test', { snapshotGoesOn: false, refill: false });
    expect(await stopped.done).toBe(false);
    expect(await again.rows("SELECT count(*)::int FROM duckdb_tables() WHERE table_name LIKE '%item%'")).toEqual([[0]]);
  });

  test('has its turn where more is to be done than to store rows', async () => {
    const sink = await openSink();
    expect(await sink.beside!(delivery(chunk(item, [['1', 'a']])))).toBeNull();
    await sink.apply(begin(item));
    expect(await sink.beside!(delivery(chunk(item, [['1', 'a']], 'another')))).toBeNull();
    const wider = relation('item', [
      ['id', 'int4'],
      ['v', 'text'],
      ['w', 'text'],
    ]);
    expect(await sink.beside!(delivery(chunk(wider, [['1', 'a', 'b']])))).toBeNull();
    const row = snapshotEvents('snap', 'incremental', [['r', item, ['1', 'a']]]);
    expect(await sink.beside!(delivery([...chunk(item, [['2', 'b']]), ...row]))).toBeNull();
    const bag = relation('bag', [['id', 'int4']], { key: [] });
    await sink.apply(begin(bag));
    expect(await sink.beside!(delivery(chunk(bag, [['1']])))).toBeNull();
  });
});

const fault = vi.hoisted((): { settle: (() => never) | null } => ({ settle: null }));
vi.mock('../../../src/sink/duckdb/chunk-settle.ts', async (original) => {
  const real = await original<typeof Settle>();
  const settleChunk: typeof real.settleChunk = async (connection, settled) =>
    fault.settle ? fault.settle() : real.settleChunk(connection, settled);
  return { ...real, settleChunk };
});

describe('a chunk that is stored while what it replaces cannot be deleted', () => {
  async function failing(next: (sink: TestSink) => Promise<unknown>, first = changes(['c', item, ['1', 'new']])) {
    const sink = await filling(item, ['2', 'two']);
    const load = (await sink.beside!(
      delivery(
        chunk(item, [
          ['1', 'old'],
          ['2', 'two'],
        ]),
      ),
    ))!;
    load.passes(first.events);
    const waiting: Promise<unknown>[] = [sink.apply(first)];
    fault.settle = () => {
      fault.settle = null;
      // Behind the chunk in the line, and before anybody knows of its end.
      waiting.push(next(sink));
      throw new Error('a test');
    };
    await expect(load.done).rejects.toThrow('is stored, and what it replaces is, too: a test');
    return { sink, ended: Promise.all(waiting) };
  }

  test('keeps a change of the same row that waited behind it', async () => {
    const { sink, ended } = await failing((of) => of.apply(changes(['u', item, ['1', 'newer']])));
    await ended;
    await sink.apply(end(item));
    expect(await sink.rows(all)).toEqual([
      [1, 'newer'],
      [2, 'two'],
    ]);
  });

  test('lets no transaction go on without its first part', async () => {
    const part = { ...changes(['c', item, ['1', 'new']]), complete: false };
    const { sink, ended } = await failing(
      (of) => of.apply({ ...part, events: events([['c', item, ['3', 'x']]]) }),
      part,
    );
    await expect(ended).rejects.toThrow('was closed while it was in the middle of a transaction');
    await sink.apply(changes(['c', item, ['1', 'new']], ['c', item, ['3', 'x']]));
    await sink.apply(end(item));
    expect(await sink.rows(all)).toEqual([
      [1, 'new'],
      [2, 'two'],
      [3, 'x'],
    ]);
  });
});

describe('changes beside a chunk', () => {
  const passes = (of: typeof item, ...list: ChangeEvent[]) => new Overtaken(of, 4).passes(list);
  const one = (...change: Change) => events([change])[0]!;

  test('pass where they bring whole rows or are of other tables', () => {
    expect(passes(item, one('c', item, ['1', 'a']), one('u', item, ['1', 'b']))).toBe(true);
    expect(passes(item, one('d', item, null, ['1', null]))).toBe(true);
    expect(passes(item, one('t', other), one('u', other, ['1']), one('u', pair, ['a', '1', undefined]))).toBe(true);
  });

  test('wait where values are left out, the table changes, or too many keys come', () => {
    expect(passes(item, one('u', item, ['1', undefined]))).toBe(false);
    expect(passes(item, one('t', item))).toBe(false);
    expect(passes(item, ...snapshotEvents('snap', 'incremental', [['m', item]]))).toBe(false);
    expect(passes(item, ...snapshotEvents('p', 'partial', [['r', item, ['1', 'a']]]))).toBe(false);
    expect(
      passes(
        item,
        one(
          'c',
          relation('item', [
            ['id', 'int8'],
            ['v', 'text'],
          ]),
          ['1', 'a'],
        ),
      ),
    ).toBe(false);
    expect(passes(item, one('c', { ...item, table: 'renamed' }, ['1', 'a']))).toBe(false);
    expect(passes(item, ...['1', '2', '3', '4', '5'].map((id) => one('c', item, [id, 'a'])))).toBe(false);
    expect(passes(pair, one('c', pair, ['\ufffd', '1', 'a']))).toBe(false);
  });

  test('take exactly the chunk rows of their keys', async () => {
    const overtaken = new Overtaken(pair, 100);
    expect(overtaken.passes([one('u', pair, ['1:1', '2', 'x']), one('d', pair, null, ['a\tb', '7', null])])).toBe(true);
    const rows: Values[] = [
      ['1', '12', 'stays'],
      ['1:1', '2', 'goes'],
      ['a\tb', '7', 'goes'],
      ['a', '7', 'stays'],
      ['', '0', 'stays'],
    ];
    const chunk = [copied(pair, rows.slice(0, 2)), copied(pair, rows.slice(2))];
    const kept = (await overtaken.kept(chunk)).flatMap((block) => block?.rows().map((row) => row.text(2)) ?? []);
    expect(kept).toEqual(['stays', 'stays', 'stays']);
    expect(overtaken.changed.map((row) => [row.text(0), row.text(1), row.text(2)])).toEqual([
      ['1:1', '2', null],
      ['a\tb', '7', null],
    ]);
  });
});
