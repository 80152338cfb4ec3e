import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isVisible, type PgSnapshot, parseSnapshot, TouchedKeys } from '../../src/snapshot/reconcile.ts';

describe('visibility', () => {
  it('reads a pg_snapshot and knows what it shows', () => {
    const snapshot = parseSnapshot('10:20:12,15');
    const visible = Array.from({ length: 25 }, (_, xid) => xid).filter((xid) => isVisible(xid, snapshot));
    expect(visible).toEqual([...Array(10).keys(), 10, 11, 13, 14, 16, 17, 18, 19]);
    expect(parseSnapshot('7:7:')).toEqual({ xmin: 7n, xmax: 7n, xip: new Set() });
    expect(() => parseSnapshot('nonsense')).toThrow(RangeError);
  });

  it('meets the 32 bits of the stream where they wrap around', () => {
    fc.assert(
      fc.property(
        fc.bigInt(0x80000000n, 1n << 40n),
        fc.integer({ min: -1_000_000, max: 1_000_000 }),
        (xmax, distance) => {
          const full = xmax + BigInt(distance);
          expect(isVisible(Number(full & 0xffffffffn), { xmin: xmax, xmax, xip: new Set() })).toBe(distance < 0);
        },
      ),
    );
  });
});

type Image = readonly (string | undefined)[];
type Row = readonly string[];

/** One transaction: changes of keys 0 to 4, each whole or leaving the second value as it was. */
interface Change {
  readonly key: number;
  readonly kind: 'write' | 'touch' | 'delete';
}

/**
 * A server in small. Transactions commit one after another, and each is decoded and becomes visible at moments of its own
 * after that, in any order: that is what PostgreSQL allows. A chunk is read under what is visible then; its watermark is
 * written afterwards, so that it is decoded after all that committed before.
 */
function simulate(changes: readonly (readonly Change[])[], schedule: readonly number[], remember: boolean) {
  const states: Map<number, Row>[] = [new Map([0, 1, 2].map((key) => [key, [`a${key}`, `toast${key}`]]))];
  const events = changes.map((list, t) => {
    const state = new Map(states.at(-1)!);
    const done: { key: number; row: Image | null }[] = [];
    for (const [i, { key, kind }] of list.entries()) {
      const old = state.get(key);
      if (kind === 'delete' && old) {
        state.delete(key);
        done.push({ key, row: null });
      } else if (kind === 'write') {
        const row = [`w${t}.${i}`, `toast${t}.${i}`];
        state.set(key, row);
        done.push({ key, row });
      } else if (kind === 'touch' && old) {
        state.set(key, [`t${t}.${i}`, old[1]!]);
        done.push({ key, row: [`t${t}.${i}`, undefined] });
      }
    }
    states.push(state);
    return done;
  });
  const touched = new TouchedKeys<Image>({
    keysMax: 1000,
    weigh: () => 1,
    merge: (earlier, later) => {
      const merged = later.map((value, i) => value ?? earlier[i]);
      return merged.includes(undefined) ? merged : null;
    },
  });
  // The sink's shadow, filled from here on.
  const shadow = new Map<number, Row>();
  let committed = 0;
  let decoded = 0;
  const visible = new Set<number>();
  const decode = (): void => {
    for (const { key, row } of events[decoded]!) {
      const complete = row && !row.includes(undefined);
      if (remember || chunk)
        touched.touch(decoded, String(key), row === null ? 'gone' : complete ? 'whole' : { image: row });
      const old = shadow.get(key);
      if (row === null) shadow.delete(key);
      else if (complete) shadow.set(key, row as Row);
      else if (old)
        shadow.set(
          key,
          row.map((value, i) => value ?? old[i]!),
        );
    }
    decoded++;
  };
  let chunk: { snapshot: PgSnapshot; rows: Map<number, Row>; watermark: number } | null = null;
  const weave = (): void => {
    while (decoded < chunk!.watermark) decode();
    const verdict = touched.verdict(chunk!.snapshot);
    for (const [key, row] of chunk!.rows) {
      const touch = verdict.touched.get(String(key));
      if (touch === 'whole' || touch === 'gone') continue;
      shadow.set(key, touch ? touch.image.map((value, i) => value ?? row[i]!) : row);
    }
  };
  for (const step of schedule) {
    const choice = step % 4;
    if (choice === 0 && committed < events.length) committed++;
    else if (choice === 1 && decoded < committed) decode();
    else if (choice === 2) {
      const candidates = [...Array(committed).keys()].filter((t) => !visible.has(t));
      if (candidates.length > 0) visible.add(candidates[step % candidates.length]!);
    } else if (choice === 3 && !chunk) {
      // Rows as visible transactions leave them, key by key: those of a key commit in the order of its lock.
      const last = [...visible].reduce((most, t) => Math.max(most, t), -1);
      const xip = [...Array(last + 1).keys()].filter((t) => !visible.has(t));
      const snapshot = { xmin: BigInt(xip[0] ?? last + 1), xmax: BigInt(last + 1), xip: new Set(xip.map(BigInt)) };
      const rows = new Map<number, Row>();
      for (let key = 0; key < 5; key++) {
        // A later writer of a key waits until the earlier one is visible to it, and so to everyone who sees the later.
        const writers = events.flatMap((list, t) => (list.some((one) => one.key === key) ? [t] : []));
        const seen = writers.filter((t) => isVisible(t, snapshot)).at(-1);
        const row = states[seen === undefined ? 0 : seen + 1]!.get(key);
        if (row) rows.set(key, row);
      }
      chunk = { snapshot, rows, watermark: committed };
    }
  }
  chunk ??= { snapshot: parseSnapshot('0:0:'), rows: new Map(states[0]!), watermark: committed };
  weave();
  committed = events.length;
  while (decoded < committed) decode();
  return { shadow, expected: states.at(-1)! };
}

const change = fc.record({
  key: fc.nat(4),
  kind: fc.constantFrom<Change['kind']>('write', 'touch', 'delete'),
});
/** Each key is written by one transaction at most: later writers wait for the lock, which is held until it is visible. */
const changes = fc.uniqueArray(fc.nat(4), { minLength: 1, maxLength: 5 }).chain((keys) =>
  fc.tuple(
    ...keys.map((key) =>
      fc.array(
        change.map((one) => ({ ...one, key })),
        { minLength: 1, maxLength: 3 },
      ),
    ),
  ),
);
const schedule = fc.array(fc.nat(1000), { maxLength: 40 });

describe('a chunk woven into the stream', () => {
  it('leaves the sink equal to the source, whenever transactions are decoded and become visible', () => {
    fc.assert(
      fc.property(changes, schedule, (transactions, steps) => {
        const { shadow, expected } = simulate(transactions, steps, true);
        expect([...shadow].sort()).toEqual([...expected].sort());
      }),
      { numRuns: 5000 },
    );
  });

  it('does not where only what is streamed between read and watermark counts: the usual window is not enough', () => {
    const found = fc.check(
      fc.property(changes, schedule, (transactions, steps) => {
        const { shadow, expected } = simulate(transactions, steps, false);
        expect([...shadow].sort()).toEqual([...expected].sort());
      }),
      { numRuns: 5000 },
    );
    expect(found.failed).toBe(true);
  });
});

describe('bounds', () => {
  it('forgets keys past the bound, and then takes no chunk that does not show the transaction', () => {
    const touched = new TouchedKeys<Image>({ keysMax: 10, weigh: () => 1, merge: () => null });
    for (let i = 0; i < 100; i++) touched.touch(5, `k${i}`, 'whole');
    touched.touch(6, 'x', 'whole');
    expect(touched.size).toBeLessThanOrEqual(10);
    expect(touched.verdict(parseSnapshot('5:7:5,6')).void).toBe(true);
    const later = touched.verdict(parseSnapshot('6:7:6'));
    expect(later).toEqual({ void: false, touched: new Map([['x', 'whole']]) });
    touched.forget(parseSnapshot('7:7:'));
    expect(touched.size).toBe(0);
    expect(touched.verdict(parseSnapshot('1:1:')).touched.size).toBe(0);
  });

  it('takes nothing that was read before a truncate', () => {
    const touched = new TouchedKeys<Image>({ keysMax: 10, weigh: () => 1, merge: () => null });
    touched.voidAll(9);
    expect(touched.verdict(parseSnapshot('9:10:9')).void).toBe(true);
    expect(touched.verdict(parseSnapshot('10:10:')).void).toBe(false);
  });
});
