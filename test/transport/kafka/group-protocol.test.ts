import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AppliedTracker } from '../../../src/transport/kafka/consumer/applied.ts';
import {
  assignTopics,
  decodeAssignment,
  decodeSubscription,
  encodeAssignment,
  encodeSubscription,
  type MemberState,
} from '../../../src/transport/kafka/consumer/group-protocol.ts';
import type { Progress } from '../../../src/transport/kafka/progress.ts';
import { IDENTITY } from './harness.ts';

const offset = (partition: string, next: number) => ({
  partition,
  position: { commitLsn: BigInt(next) * 16n, seq: 3 },
  next: BigInt(next),
});
const none: MemberState = { topics: [], previous: [], owned: [], instance: null, whole: false };

describe('group protocol', () => {
  it('reads back what it wrote, and bears members of another kind', () => {
    const state: MemberState = {
      topics: ['p.a', 'p.ü'],
      previous: ['p.a'],
      owned: [offset('p.a:0', 12)],
      instance: 'i1',
      whole: true,
    };
    expect(decodeSubscription(encodeSubscription(state))).toEqual(state);
    const assignment = {
      partitions: new Map([['p.a', [0, 1]]]),
      offsets: [offset('p.a:1', 7)],
      orphans: ['p.b'],
      topics: ['p.a', 'p.b'],
      refused: false,
    };
    expect(decodeAssignment(encodeAssignment(assignment))).toEqual(assignment);
    expect(decodeAssignment(Buffer.alloc(0)).partitions.size).toBe(0);
    expect(decodeSubscription(Buffer.from('00000000000000000000', 'hex'))).toEqual(none);
  });

  it('gives every topic to exactly one member, whole, and evenly', () => {
    const names = fc.uniqueArray(fc.constantFrom(...'abcdefghij'), { maxLength: 10 });
    const member = fc.record({ topics: names, owns: names });
    fc.assert(
      fc.property(fc.array(member, { minLength: 1, maxLength: 5 }), (list) => {
        const members = new Map(
          list.map(({ topics, owns }, i): [string, MemberState] => [
            `m${i}`,
            { ...none, topics, previous: owns, owned: owns.map((topic) => offset(`${topic}:0`, i + 1)) },
          ]),
        );
        const assigned = assignTopics(members, () => 2);
        const topics = [...new Set(list.flatMap((item) => item.topics))].sort();
        const dealt = [...assigned.values()].flatMap(({ partitions }) => [...partitions.keys()]);
        expect(dealt.sort()).toEqual(topics);
        const sizes = [...assigned.values()].map(({ partitions }) => partitions.size);
        expect(Math.max(...sizes)).toBeLessThanOrEqual(Math.ceil(topics.length / list.length));
        for (const { partitions, offsets } of assigned.values()) {
          for (const numbers of partitions.values()) expect(numbers).toEqual([0, 1]);
          for (const { partition } of offsets) expect(partitions.has(partition.slice(0, -2))).toBe(true);
        }
      }),
    );
  });

  it('leaves a topic with its owner, hands on the furthest offset, and names topics whose owner is gone', () => {
    const abc = ['a', 'b', 'c'];
    const members = new Map<string, MemberState>([
      ['new', { ...none, topics: ['a', 'b', 'c', 'd'] }],
      ['old', { ...none, topics: abc, previous: abc, owned: [offset('a:0', 5), offset('b:0', 6)] }],
      ['older', { ...none, previous: abc, owned: [offset('a:0', 4)] }],
    ]);
    const assigned = assignTopics(members, () => 1);
    expect([...assigned.get('old')!.partitions.keys()]).toEqual(['a', 'b']);
    expect(assigned.get('old')!.offsets).toEqual([offset('a:0', 5), offset('b:0', 6)]);
    const orphans = [...assigned.values()].flatMap((assignment) => assignment.orphans);
    expect(orphans).toEqual(['c']);
  });

  it('refuses a second store under one name, whoever leads, and gives everything to one member that needs it', () => {
    const members = new Map<string, MemberState>([
      ['a-new', { ...none, topics: ['a', 'b'], instance: 'copy' }],
      ['b-old', { ...none, topics: ['a', 'b'], previous: ['a', 'b'], instance: 'first' }],
      ['c-same', { ...none, topics: ['a', 'b'], instance: 'first', whole: true }],
    ]);
    const assigned = assignTopics(members, () => 1, 'a-new');
    expect(assigned.get('a-new')).toMatchObject({ refused: true, partitions: new Map() });
    const sizes = ['b-old', 'c-same'].map((id) => assigned.get(id)!.partitions.size);
    expect(sizes.sort()).toEqual([0, 2]);
    const fresh = new Map([...members].map(([id, state]): [string, MemberState] => [id, { ...state, previous: [] }]));
    expect(assignTopics(fresh, () => 1, 'a-new').get('b-old')!.refused).toBe(true);
  });
});

describe('applied tracker', () => {
  const progress = (lsn: number, ends: Record<string, number[]>): Progress => ({
    lsn: BigInt(lsn),
    position: null,
    identity: IDENTITY,
    ends: new Map(Object.entries(ends).map(([topic, list]) => [topic, list.map(BigInt)])),
    copyStart: new Map(),
    copyLsn: null,
    retired: [],
  });

  it('stands at the newest progress that every partition has reached', () => {
    const tracker = new AppliedTracker((topic) => topic === 'elsewhere');
    tracker.progress(progress(10, { a: [1, 0], elsewhere: [99] }));
    tracker.progress(progress(20, { a: [1, 2], elsewhere: [99] }));
    tracker.progress(progress(30, { a: [3, 2], b: [1], elsewhere: [99] }));
    expect(tracker.lsn()).toBe(0n);
    tracker.applied('a:0', 1n);
    expect(tracker.lsn()).toBe(10n);
    tracker.applied('a:0', 3n);
    tracker.applied('a:1', 2n);
    expect(tracker.lsn()).toBe(20n);
    tracker.applied('b:0', 1n);
    expect(tracker.lsn()).toBe(30n);
    tracker.progress(progress(40, { a: [3, 2], b: [1] }));
    expect(tracker.lsn()).toBe(40n);
  });

  it('keeps a bounded number of steps, the newest among them', () => {
    const tracker = new AppliedTracker(() => false);
    for (let i = 1; i <= 20_000; i++) tracker.progress(progress(i, { a: [i] }));
    tracker.applied('a:0', 10_000n);
    const lsn = Number(tracker.lsn());
    expect(lsn).toBeLessThanOrEqual(10_000);
    expect(lsn).toBeGreaterThan(5_000);
    tracker.applied('a:0', 20_000n);
    expect(tracker.lsn()).toBe(20_000n);
  });
});
