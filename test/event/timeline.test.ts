import { describe, expect, it } from 'vitest';
import { parseLsn } from '../../src/event/lsn.ts';
import { checkTimeline } from '../../src/event/timeline.ts';
import { parseHistory } from '../../src/postgres/identity.ts';

const ancestors = parseHistory(
  '1\t0/3000060\tno recovery target specified\n# a comment\n\n2\t1/50\tbefore 2026-11-22\n',
);
const server = { systemIdentifier: '7', slot: 's', database: 'd', timeline: 3, ancestors };
const at = (timeline: number, lsn: string, seq: number) => () =>
  checkTimeline('sink "a"', timeline, { commitLsn: parseLsn(lsn), seq }, server);

describe('timelines', () => {
  it('reads a history file', () => {
    expect(ancestors).toEqual([
      { timeline: 1, end: '0/3000060' },
      { timeline: 2, end: '1/50' },
    ]);
  });

  it('accepts what lies before the branch, and nothing of behind it', () => {
    expect(at(3, 'FF/0', 5)).not.toThrow();
    expect(at(1, '0/3000060', 0)).not.toThrow();
    expect(at(1, '0/300005F', 9)).not.toThrow();
    expect(at(1, '0/3000060', 1)).toThrow(/lost in the source/);
    expect(at(1, '0/3000061', 0)).toThrow(/only up to 0\/3000060/);
    expect(at(2, '1/50', 0)).not.toThrow();
    expect(at(4, '0/1', 0)).toThrow(/does not come from/);
  });
});
