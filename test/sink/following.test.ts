import { describe, expect, it } from 'vitest';
import type { ChangeEvent } from '../../src/event/change-event.ts';
import { Following } from '../../src/sink/following.ts';
import type { SinkState } from '../../src/sink/sink.ts';
import { events, relation, snapshotEvents } from './duckdb/support.ts';

const a = relation('a', [['id', 'int8']]);
const b = relation('b', [['id', 'int8']], { oid: 2 });
const live = (table: string): NonNullable<SinkState['tables']>[number] => ({
  schema: 'public',
  table,
  live: true,
  filling: null,
});

/** What passes, as text, with its effect kept. */
function pass(following: Following, ...transactions: readonly (readonly ChangeEvent[])[]): string {
  const selected = following.select(transactions.flat());
  following.applied();
  return selected.map(({ op, relation: of }) => `${op}${of?.table ?? ''}`).join(' ');
}

const change = events([
  ['c', a, ['1']],
  ['c', b, ['1']],
]);
const row = (id: string) => snapshotEvents(id, 'incremental', [['r', a, ['1']]]);
const begin = (id: string, sinks: string[] | null = null) =>
  snapshotEvents(id, 'incremental', [['t', a]], 'completed', sinks);
const end = (id: string, phase: 'completed' | 'cancelled') => snapshotEvents(id, 'incremental', [['m', a]], phase);

describe('a sink that remembers its tables', () => {
  it('is given the changes of those that are live or being filled, and of no others', () => {
    const following = new Following('s', { stopped: [], tables: [live('b')] });
    expect(pass(following, change)).toBe('cb');
    expect(pass(following, begin('x'), change)).toBe('ta ca cb');
    expect(pass(following, change, end('x', 'completed'), change)).toBe('ca cb ma ca cb');
    expect(following.tables).toMatchObject([live('b'), live('a')]);
  });

  it('is given the rows of the snapshot that fills a table, and of no other', () => {
    const following = new Following('s', { stopped: [], tables: [live('b')] });
    expect(pass(following, row('x'), end('x', 'completed'))).toBe('');
    expect(pass(following, begin('x'), row('x'), row('y'), end('y', 'completed'))).toBe('ta ra');
    expect(pass(following, begin('y'), row('x'), row('y'))).toBe('ta ra');
    expect(pass(following, end('y', 'cancelled'), row('y'), change)).toBe('ma cb');
  });

  it('goes on with a snapshot after a restart', () => {
    const filling = { schema: 'public', table: 'a', live: true, filling: 'x' };
    const following = new Following('s', { stopped: [], tables: [filling] });
    expect(pass(following, row('x'), change, end('x', 'cancelled'), change)).toBe('ra ca ma ca');
  });

  it('leaves snapshots to the sinks that they are addressed to', () => {
    const following = new Following('s', { stopped: [], tables: [] });
    expect(pass(following, begin('x', ['other']), change)).toBe('');
    expect(pass(following, begin('x', ['other', 's']), change)).toBe('ta ca');
  });

  it('is given rows of a partial snapshot for tables that it holds', () => {
    const following = new Following('s', { stopped: [], tables: [live('a')] });
    const partial = snapshotEvents('p', 'partial', [
      ['r', a, ['1']],
      ['r', b, ['1']],
    ]);
    expect(pass(following, partial)).toBe('ra');
  });

  it('forgets what was selected and not applied', () => {
    const following = new Following('s', { stopped: [], tables: [] });
    expect(following.select([...begin('x'), ...change])).toHaveLength(2);
    expect(following.select(change)).toHaveLength(0);
  });
});

describe('a stopped table', () => {
  const stop = { schema: 'public', table: 'a', reason: 'broken' };

  it('is taken up by a new snapshot, but not by the one in which it was stopped', () => {
    const following = new Following('s', { stopped: [], tables: [live('a'), live('b')] });
    pass(following, begin('x'));
    following.stop(stop, [...begin('y')], false);
    expect(following.stopped).toEqual([stop]);
    expect(pass(following, change, begin('x'), row('x'), begin('y'), row('y'))).toBe('cb');
    expect(pass(following, begin('z'), change)).toBe('ta ca cb');
    expect(following.stopped).toEqual([]);
    expect(pass(following, end('z', 'cancelled'), change)).toBe('ma cb');
    expect(following.stopped).toEqual([stop]);
    expect(pass(following, begin('w'), end('w', 'completed'), change)).toBe('ta ma ca cb');
    expect(following.stopped).toEqual([]);
  });

  it('stays so after a restart, also while it is being filled', () => {
    const stopped = { schema: 'public', table: 'a', live: false, filling: null };
    expect(pass(new Following('s', { stopped: [stop], tables: [stopped] }), change)).toBe('');
    const filling = new Following('s', { stopped: [stop], tables: [{ ...stopped, filling: 'x' }] });
    expect(pass(filling, change, end('x', 'cancelled'), change)).toBe('ca ma');
  });

  it('does not keep another table, which takes its name, from being filled', () => {
    const following = new Following('s', { stopped: [], tables: [{ ...live('a'), oid: a.oid }] });
    const other = relation('a', [['id', 'int8']], { oid: a.oid + 100 });
    const beginning = snapshotEvents('x', 'incremental', [['t', other]]);
    const together = [...change, ...beginning];
    following.stop({ schema: 'public', table: 'a', oid: a.oid, reason: null }, together, false);
    expect(pass(following, together)).toBe('ta');
    expect(following.tables).toMatchObject([{ oid: other.oid, filling: 'x' }]);
  });

  it('is filled on where only its live rows were at fault', () => {
    const following = new Following('s', { stopped: [], tables: [live('a')] });
    const together = [...begin('x'), ...change];
    following.stop(stop, together, true);
    expect(pass(following, together)).toBe('ta ca');
  });
});

describe('a sink that does not remember tables', () => {
  it('is given everything but stopped tables and what is for others', () => {
    const following = new Following('s', { stopped: [], tables: null });
    expect(pass(following, change, begin('x', ['other']), begin('x'), row('x'), row('y'))).toBe('ca cb ta ra ra');
    following.stop({ schema: 'public', table: 'a', reason: 'broken' }, [], false);
    expect(pass(following, change, row('x'), row('y'), begin('z'), row('z'))).toBe('cb ta ra');
    expect(following.tables).toBeNull();
  });
});
