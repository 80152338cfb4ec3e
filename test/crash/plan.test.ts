import { describe, expect, it } from 'vitest';
import { FAILPOINTS } from '../../src/failpoint.ts';
import { planEpisode, WAYS } from './plan.ts';

describe('the plan of the crash suite', () => {
  it.each(['in-process', 'kafka'] as const)(
    'comes by every point of %s within as many episodes as there are points',
    (transport) => {
      const wanted = FAILPOINTS.filter((point) => WAYS[point] && (transport === 'kafka' || !WAYS[point].kafkaOnly));
      for (const first of [0, 7, 123_456]) {
        const faults = wanted.flatMap((_, i) => planEpisode(first + i, transport));
        const points = new Set(faults.flatMap((fault) => (fault.kind === 'point' ? [fault.point] : [])));
        expect([...points].sort()).toEqual([...wanted].sort());
      }
    },
  );

  it('is the same for the same seed', () => {
    expect(planEpisode(5, 'kafka')).toEqual(planEpisode(5, 'kafka'));
  });
});
