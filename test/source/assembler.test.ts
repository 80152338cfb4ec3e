import { describe, expect, it } from 'vitest';
import type { Batch } from '../../src/event/batch.ts';
import type { Position } from '../../src/event/position.ts';
import type { Relation } from '../../src/event/relation.ts';
import { Assembler, HEARTBEAT_PREFIX } from '../../src/source/assembler.ts';
import { message } from './messages.ts';

const orders: Relation = { oid: 1, schema: 'public', table: 'orders', replicaIdentity: 'd', columns: [], key: [0] };
const items: Relation = { ...orders, oid: 2, table: 'items' };
const relations = new Map<number, Relation | null>([
  [1, orders],
  [2, items],
  [3, null],
]);

function feed(assembler: Assembler, messages: readonly Buffer[]): Batch[] {
  for (const bytes of messages) assembler.push(bytes, 0, bytes.length, 1n);
  return assembler.take(100);
}

const transaction = (commitLsn: bigint, changes: readonly Buffer[]): Buffer[] => [
  message.begin(commitLsn, 0n, 7),
  ...changes,
  message.commit(commitLsn, commitLsn + 48n, 0n),
];

describe('Assembler', () => {
  it('numbers changes by transaction and by table, and ends batches at commits', () => {
    const insert = message.insert(1, ['1']);
    const batches = feed(new Assembler(relations), [
      ...transaction(100n, [insert, message.insert(2, ['1']), insert, message.truncate([1, 2], 0)]),
      message.begin(200n, 0n, 8),
      insert,
    ]);
    expect(batches.map((batch) => batch.commitEndLsn)).toEqual([148n, null]);
    expect(batches[0]!.events.map(({ op, relation, seq, tableSeq }) => [op, relation?.table, seq, tableSeq])).toEqual([
      ['c', 'orders', 1, 1],
      ['c', 'items', 2, 1],
      ['c', 'orders', 3, 2],
      ['t', 'orders', 4, 3],
      ['t', 'items', 5, 2],
    ]);
    expect(batches[1]!.events[0]).toMatchObject({ seq: 1, transaction: { xid: 8, commitLsn: 200n } });
  });

  it('counts what is left out, so that numbers do not depend on the selection', () => {
    const [batch] = feed(
      new Assembler(relations),
      transaction(100n, [message.insert(3, ['1']), message.insert(1, ['1'])]),
    );
    expect(batch!.events.map((event) => event.seq)).toEqual([2]);
  });

  it('drops what was handed out before a reconnect, also in the middle of a transaction', () => {
    const inserts = [message.insert(1, ['1']), message.insert(1, ['2']), message.insert(1, ['3'])];
    const first = new Assembler(relations);
    feed(first, [message.begin(100n, 0n, 7), inserts[0]!, inserts[1]!]);
    const again = new Assembler(relations, first.handedOut);
    const batches = feed(again, [...transaction(100n, inserts), ...transaction(200n, [inserts[0]!])]);
    expect(batches.flatMap((batch) => batch.events).map((event): Position => event.position)).toEqual([
      { commitLsn: 100n, seq: 3 },
      { commitLsn: 200n, seq: 1 },
    ]);
  });

  it('does not count as handed out what was taken in but never taken', () => {
    const inserts = [message.insert(1, ['1']), message.insert(1, ['2'])];
    const first = new Assembler(relations);
    feed(first, [message.begin(100n, 0n, 7), inserts[0]!]);
    // The connection breaks after these came, and before anyone took them.
    for (const bytes of [inserts[1]!, message.commit(100n, 148n, 0n)]) first.push(bytes, 0, bytes.length, 1n);
    const again = new Assembler(relations, first.handedOut);
    const batches = feed(again, transaction(100n, inserts));
    expect(batches.flatMap((batch) => batch.events).map((event) => event.seq)).toEqual([2]);
    expect(batches[0]!.commitEndLsn).toBe(148n);
  });

  it('lets keepalives and heartbeats move the position, but never inside a transaction', () => {
    const assembler = new Assembler(relations);
    assembler.keepalive(50n);
    expect(assembler.take(0)).toEqual([{ events: [], bytes: 0, commitEndLsn: 50n }]);
    assembler.keepalive(50n);
    expect(assembler.take(0)).toEqual([]);
    feed(assembler, [message.begin(100n, 0n, 7)]);
    assembler.keepalive(90n);
    expect(assembler.take(0)).toEqual([]);
    feed(assembler, [message.commit(100n, 148n, 0n)]);
    expect(feed(assembler, [message.logical(false, 160n, HEARTBEAT_PREFIX, Buffer.from('{}'))])).toEqual([
      { events: [], bytes: 0, commitEndLsn: 160n },
    ]);
  });

  it('hands on logical messages of others', () => {
    const [batch] = feed(
      new Assembler(relations),
      transaction(100n, [message.logical(true, 90n, 'audit', Buffer.from('x'))]),
    );
    expect(batch!.events[0]).toMatchObject({ op: 'm', seq: 1, message: { prefix: 'audit', transactional: true } });
    const [outside] = feed(new Assembler(relations), [message.logical(false, 300n, 'audit', Buffer.from('y'))]);
    expect(outside!.events[0]).toMatchObject({ op: 'm', seq: 0, transaction: { commitLsn: 300n } });
    expect(outside!.commitEndLsn).toBe(300n);
  });

  it('refuses changes of a table that was never described', () => {
    expect(() => feed(new Assembler(relations), transaction(100n, [message.insert(99, ['1'])]))).toThrow(
      /never described/,
    );
  });
});
