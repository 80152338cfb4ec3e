import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ChangeEvent, type Op, type Transaction } from '../../src/event/change-event.ts';
import type { ReplicaIdentity } from '../../src/event/relation.ts';
import { encodeTuple, Row } from '../../src/event/row.ts';
import { BagCompactor, type Compacted, KeyedCompactor, KeylessError } from '../../src/sink/compact.ts';
import { relation, type Values } from './duckdb/support.ts';

const transaction: Transaction = { xid: 1, commitLsn: 1n, commitTimeUs: 0n, snapshot: null, origin: null };

/** key, a TOASTable column, and a plain one. */
type Stored = readonly [key: string, toast: string | null, plain: string];

const relationOf = (keyType: string, replicaIdentity: ReplicaIdentity = 'd', key: readonly number[] = [0]) =>
  relation(
    't',
    [
      ['k', keyType],
      ['toast', 'text'],
      ['plain', 'text'],
    ],
    { replicaIdentity, key },
  );

const textsOf = (row: Row): Stored => [0, 1, 2].map((column) => row.text(column)) as unknown as Stored;

interface Step {
  readonly op: 'insert' | 'update' | 'rekey' | 'delete' | 'truncate';
  readonly pick: number;
  readonly key: number;
  readonly toast: string | null;
  readonly plain: string;
  readonly keepToast: boolean;
}

const step: fc.Arbitrary<Step> = fc.record({
  op: fc.oneof(
    { weight: 6, arbitrary: fc.constant('insert' as const) },
    { weight: 6, arbitrary: fc.constant('update' as const) },
    { weight: 6, arbitrary: fc.constant('rekey' as const) },
    { weight: 4, arbitrary: fc.constant('delete' as const) },
    { weight: 1, arbitrary: fc.constant('truncate' as const) },
  ),
  pick: fc.nat(1000),
  key: fc.nat(7),
  toast: fc.option(fc.constantFrom('A', 'B', 'C')),
  plain: fc.constantFrom('p', 'q'),
  keepToast: fc.boolean(),
});

/** Runs the steps on a table as PostgreSQL would, row by row, and gives the events that it would send. */
function play(table: Map<string, Stored>, steps: readonly Step[], of: ReturnType<typeof relationOf>): ChangeEvent[] {
  const events: ChangeEvent[] = [];
  const row = (values: Values): Row => new Row(of, encodeTuple(values), 0);
  const emit = (op: Op, before: Values | null, after: Values | null) =>
    events.push(
      new ChangeEvent(op, transaction, events.length + 1, 1, 0n, of, before && row(before), after && row(after)),
    );
  const full = of.replicaIdentity === 'f';
  for (const { op, pick, key, toast, plain, keepToast } of steps) {
    const present = [...table.keys()];
    const old = present.length > 0 ? table.get(present[pick % present.length]!)! : null;
    const free = !table.has(String(key));
    const oldImage = (stored: Stored): Values => (full ? stored : [stored[0], null, null]);
    if (op === 'truncate') {
      table.clear();
      emit('t', null, null);
    } else if (op === 'insert' && free) {
      table.set(String(key), [String(key), toast, plain]);
      emit('c', null, [String(key), toast, plain]);
    } else if (op === 'delete' && old) {
      table.delete(old[0]);
      emit('d', oldImage(old), null);
    } else if ((op === 'update' || (op === 'rekey' && free)) && old) {
      const newKey = op === 'rekey' ? String(key) : old[0];
      // PostgreSQL leaves out only values that are stored out of line, never NULL.
      const keeps = keepToast && old[1] !== null;
      const next: Stored = [newKey, keeps ? old[1] : toast, plain];
      table.delete(old[0]);
      table.set(newKey, next);
      emit('u', full || newKey !== old[0] ? oldImage(old) : null, [newKey, keeps ? undefined : toast, plain]);
    }
  }
  return events;
}

/** As a store does it where changes come once more: what it does not hold completes nothing. */
function applyAgain(stored: Map<string, Stored>, { deletes, inserts, merges }: Compacted): void {
  const merged = merges.flatMap(({ row, origin }) => {
    const source = stored.get(origin.text(0)!);
    if (!source) return [];
    return [textsOf(row).map((value, i) => (value === undefined ? source[i]! : value)) as unknown as Stored];
  });
  for (const row of deletes) stored.delete(row.text(0)!);
  for (const row of [...inserts.map(textsOf), ...merged]) {
    expect(stored.has(row[0]), 'an insert never meets its own key').toBe(false);
    stored.set(row[0], row);
  }
}

describe('changes of a table with a key', () => {
  for (const [keyType, identity] of [
    ['int8', 'd'],
    ['text', 'd'],
    ['int4', 'f'],
  ] as const) {
    test(`compacted, give what applying them one by one gives (${keyType}, ${identity})`, () => {
      const of = relationOf(keyType, identity);
      fc.assert(
        fc.property(fc.array(step, { maxLength: 8 }), fc.array(step, { maxLength: 40 }), (before, steps) => {
          const expected = new Map<string, Stored>();
          play(expected, before, of);
          const stored = new Map(expected);
          const compactor = new KeyedCompactor(of);
          for (const event of play(expected, steps, of)) compactor.add(event);
          const { truncate, deletes, inserts, merges } = compactor.finish();

          if (truncate) stored.clear();
          const merged = merges.map(({ row, origin }) => {
            const source = stored.get(origin.text(0)!);
            if (!source) throw new Error('a merge names a row that is not stored');
            return textsOf(row).map((value, i) => (value === undefined ? source[i]! : value)) as unknown as Stored;
          });
          for (const row of deletes)
            expect(stored.delete(row.text(0)!), 'a delete names a stored row, once').toBe(true);
          for (const row of [...inserts.map(textsOf), ...merged]) {
            expect(stored.has(row[0]), 'an insert never meets its own key').toBe(false);
            expect(row).not.toContain(undefined);
            stored.set(row[0], row);
          }
          expect(new Map([...stored].sort())).toEqual(new Map([...expected].sort()));
        }),
        { numRuns: 3000 },
      );
    });
  }

  test('that come once more, in whatever batches, end where the rows were, or say that they cannot', () => {
    const of = relationOf('int4');
    let lost = 0;
    let runs = 0;
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 8 }),
        fc.array(step, { maxLength: 40 }),
        fc.infiniteStream(fc.integer({ min: 1, max: 6 })),
        (before, steps, sizes) => {
          const expected = new Map<string, Stored>();
          play(expected, before, of);
          const events = play(expected, steps, of);
          const stored = new Map(expected);
          runs++;
          for (let from = 0; from < events.length; ) {
            const to = from + sizes.next().value;
            const compactor = new KeyedCompactor(of, 'later');
            for (const event of events.slice(from, to)) compactor.add(event);
            const changes = compactor.finish();
            if (changes.truncate) stored.clear();
            const missing = changes.merges.some(({ origin, moved }) => moved && !stored.has(origin.text(0)!));
            if (changes.lost || missing) {
              lost++;
              return;
            }
            applyAgain(stored, changes);
            from = to;
          }
          expect(new Map([...stored].sort())).toEqual(new Map([...expected].sort()));
        },
      ),
      { numRuns: 20_000 },
    );
    expect(lost).toBeLessThan(runs / 2);
  });

  test('a key of several columns is not the run of their characters', () => {
    const of = relation(
      't',
      [
        ['a', 'text'],
        ['b', 'text'],
      ],
      { key: [0, 1] },
    );
    const compactor = new KeyedCompactor(of);
    const row = (...values: string[]) => new Row(of, encodeTuple(values), 0);
    for (const [a, b] of [
      ['ab', 'c'],
      ['a', 'bc'],
    ] as const) {
      compactor.add(new ChangeEvent('d', transaction, 1, 1, 0n, of, row(a, b), null));
    }
    expect(compactor.finish().deletes).toHaveLength(2);
  });

  test('integers beyond 15 digits stay apart', () => {
    const of = relationOf('int8');
    const compactor = new KeyedCompactor(of);
    for (const key of ['9007199254740992', '9007199254740993', '-9223372036854775808', '7', '-7']) {
      compactor.add(
        new ChangeEvent('d', transaction, 1, 1, 0n, of, new Row(of, encodeTuple([key, null, null]), 0), null),
      );
    }
    expect(compactor.finish().deletes).toHaveLength(5);
  });

  test('a key whose text changes without its value is deleted under the old text', () => {
    const of = relationOf('numeric');
    const compactor = new KeyedCompactor(of);
    const row = (...values: Values) => new Row(of, encodeTuple(values), 0);
    compactor.add(new ChangeEvent('u', transaction, 1, 1, 0n, of, row('1.0', null, null), row('1.00', 'x', 'p')));
    compactor.add(new ChangeEvent('u', transaction, 2, 2, 0n, of, null, row('1.00', undefined, 'q')));
    const { deletes, inserts, merges } = compactor.finish();
    expect(deletes.map((one) => one.text(0))).toEqual(['1.0']);
    expect(inserts.map(textsOf)).toEqual([['1.00', 'x', 'q']]);
    expect(merges).toEqual([]);
  });

  test('a TOASTed key that did not change comes from the old tuple', () => {
    const of = relationOf('text');
    const compactor = new KeyedCompactor(of);
    const row = (...values: Values) => new Row(of, encodeTuple(values), 0);
    compactor.add(
      new ChangeEvent('u', transaction, 1, 1, 0n, of, row('long key', null, null), row(undefined, undefined, 'q')),
    );
    const { deletes, merges } = compactor.finish();
    expect(deletes.map((one) => one.text(0))).toEqual(['long key']);
    expect(merges.map(({ row: one, origin }) => [textsOf(one), origin.text(0)])).toEqual([
      [['long key', undefined, 'q'], 'long key'],
    ]);
  });
});

describe('changes of a table without a key', () => {
  test('under FULL, compacted, give the same rows as often', () => {
    const of = relationOf('int4', 'f', []);
    const value = fc.tuple(fc.constantFrom('1', '2'), fc.constantFrom('A', null), fc.constantFrom('p', 'q'));
    const change = fc.record({
      op: fc.constantFrom('c' as const, 'u' as const, 'd' as const),
      value,
      pick: fc.nat(100),
      keep: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(value, { maxLength: 6 }), fc.array(change, { maxLength: 30 }), (initial, list) => {
        const expected: Stored[] = [...initial];
        const stored = initial.map((one) => JSON.stringify(one));
        const compactor = new BagCompactor(of);
        const row = (values: Values) => new Row(of, encodeTuple(values), 0);
        for (const { op, value: next, pick, keep } of list) {
          if (op === 'c') {
            expected.push(next);
            compactor.add(new ChangeEvent('c', transaction, 1, 1, 0n, of, null, row(next)));
            continue;
          }
          if (expected.length === 0) continue;
          const [old] = expected.splice(pick % expected.length, 1);
          if (op === 'd') {
            compactor.add(new ChangeEvent('d', transaction, 1, 1, 0n, of, row(old!), null));
            continue;
          }
          const keeps = keep && old![1] !== null;
          const after: Stored = [next[0], keeps ? old![1] : next[1], next[2]];
          expected.push(after);
          compactor.add(
            new ChangeEvent(
              'u',
              transaction,
              1,
              1,
              0n,
              of,
              row(old!),
              row([after[0], keeps ? undefined : after[1], after[2]]),
            ),
          );
        }
        const { deletes, inserts } = compactor.finish();
        for (const { row: gone, count } of deletes) {
          for (let i = 0; i < count; i++) {
            const at = stored.indexOf(JSON.stringify(textsOf(gone)));
            expect(at, 'a delete names a stored row').toBeGreaterThanOrEqual(0);
            stored.splice(at, 1);
          }
        }
        stored.push(...inserts.map((one) => JSON.stringify(textsOf(one))));
        expect(stored.sort()).toEqual(expected.map((one) => JSON.stringify(one)).sort());
      }),
      { numRuns: 2000 },
    );
  });

  test('without FULL an update or delete is refused', () => {
    const of = relationOf('int4', 'n', []);
    const compactor = new BagCompactor(of);
    const row = new Row(of, encodeTuple(['1', null, 'p']), 0);
    expect(() => compactor.add(new ChangeEvent('d', transaction, 1, 1, 0n, of, row, null))).toThrow(KeylessError);
  });
});
