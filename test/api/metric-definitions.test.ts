import { describe, expect, it } from 'vitest';
import { isFresh } from '../../docs/metrics.ts';
import { LABELS } from '../../src/metrics/family.ts';
import { createMetrics, FAMILIES } from '../../src/metrics/metrics.ts';
import type { StoredPicture } from '../../src/metrics/stored.ts';
import type { PipelineStatus, TableStatus } from '../../src/pipeline/status.ts';
import { parsePrometheus, sampleOf } from '../support/prometheus.ts';
import { pipelineStatus, sinkStatus } from './fixtures.ts';

const families = FAMILIES.flatMap(([, some]) => some);
const AT = new Date('2026-01-02T00:00:00Z');

const table = (name: string, changes: Partial<TableStatus> = {}): TableStatus => ({
  ...{ name, events: 1, lagBytes: 0, lagSeconds: 0, lastCommitAt: null },
  ...changes,
});

const stored: StoredPicture = {
  slot: 'waltide',
  alerts: [{ rule: 'sink_lag', severity: 'warning', open: 2 }],
  instances: 2,
  syncTypes: [
    {
      ...{ syncType: 'validate', lastSyncAt: AT, lastAttemptAt: AT, status: 'in_progress', error: null },
      ...{ successes: 3, failures: 1, records: 0, createdAt: AT, updatedAt: AT },
    },
  ],
  scores: [
    { sink: 'analytics', table: 'public.a "b"', score: 99.5, differences: 5, at: AT },
    { sink: 'analytics', table: 'public.dropped', score: 10, differences: 90, at: AT },
    { sink: 'removed', table: 'public.a "b"', score: 10, differences: 90, at: AT },
  ],
  writes: { queued: 7, oldestAt: AT },
};

async function scrape(status: PipelineStatus, tablesMax = 500) {
  const { read } = createMetrics({ status: () => status, stored: async () => stored, tablesMax });
  return parsePrometheus(await read());
}

it('docs/metrics.md is what docs/metrics.ts writes: run `npm run docs` where this fails', () => {
  expect(isFresh()).toBe(true);
});

describe('definitions', () => {
  it("follow Prometheus's conventions: names once, base units, counters and only they end in _total", () => {
    expect(new Set(families.map(({ name }) => name)).size).toBe(families.length);
    for (const { name, type, help, labels } of families) {
      expect(name).toMatch(/^waltide_[a-z]+(_[a-z]+)*$/);
      expect(name.endsWith('_total'), name).toBe(type === 'counter');
      expect(name, 'no unit but the base unit').not.toMatch(/_(ms|millis|us|kb|mb|minutes|hours|percent)(_|$)/);
      expect(help.trim(), name).toMatch(/\.$/);
      expect(labels.every((label) => label in LABELS)).toBe(true);
    }
  });

  it('every sample has the labels that its definition names, and every metric of the picture has one', async () => {
    const copy = pipelineStatus().copy.map((one) => ({ ...one, secondsLeft: 3 }));
    const sink = sinkStatus({
      deadLetters: { open: 1, retrying: 1, oldestAt: AT.toISOString(), tables: [{ name: 't', open: 1 }] },
    });
    const metrics = await scrape(pipelineStatus({ copy, sinks: [sink] }));
    for (const { name, labels } of families) {
      const { samples } = metrics.get(name)!;
      expect(samples.length, name).toBeGreaterThan(0);
      for (const sample of samples)
        expect([...labels, 'le']).toEqual(expect.arrayContaining(Object.keys(sample.labels)));
    }
  });

  it('what the control schema says of tables and sinks that are gone is left out', async () => {
    const metrics = await scrape(pipelineStatus());
    expect(metrics.get('waltide_validation_score_ratio')!.samples).toEqual([
      { name: 'waltide_validation_score_ratio', labels: { sink: 'analytics', table: 'public.a "b"' }, value: 0.995 },
    ]);
    expect(sampleOf(metrics, 'waltide_write_queue_operations')).toBe(7);
    expect(sampleOf(metrics, 'waltide_alerts', { slot: 'waltide', rule: 'sink_lag', severity: 'warning' })).toBe(2);
    expect(sampleOf(metrics, 'waltide_sync_runs_total', { sync_type: 'validate', state: 'error' })).toBe(1);
    const { read } = createMetrics({ status: () => pipelineStatus(), tablesMax: 1 });
    const without = parsePrometheus(await read());
    expect(sampleOf(without, 'waltide_control_schema_up')).toBe(0);
    expect(without.get('waltide_instances')!.samples).toEqual([]);
  });

  it('labels hold every character that a name can', async () => {
    const name = 'a"b\\c\nd.é{},=';
    const metrics = await scrape(pipelineStatus({ sinks: [sinkStatus({ tables: [table(name)] })] }));
    expect(sampleOf(metrics, 'waltide_sink_table_events_total', { sink: 'analytics', table: name })).toBe(1);
  });
});

describe('tables beyond the bound', () => {
  const tables = [
    table('t.idle', { events: 1, lagSeconds: 3 }),
    table('t.busy', { events: 100, lagSeconds: 1 }),
    table('t.slow', { events: 2, lagSeconds: 9 }),
  ];

  it('are put together: counters as their sum, lags as the worst', async () => {
    const metrics = await scrape(pipelineStatus({ copy: [], sinks: [sinkStatus({ tables })] }), 1);
    const of = (name: string, one: string) => sampleOf(metrics, name, { sink: 'analytics', table: one });
    expect(of('waltide_sink_table_events_total', 't.busy')).toBe(100);
    expect(of('waltide_sink_table_events_total', '(others)')).toBe(3);
    expect(of('waltide_sink_table_lag_seconds', '(others)')).toBe(9);
    expect(metrics.get('waltide_sink_table_lag_seconds')!.samples).toHaveLength(2);
  });

  it('a table keeps its series while it is there, and gives its place up when it is gone', async () => {
    let now = pipelineStatus({ copy: [], sinks: [sinkStatus({ tables })] });
    const { read } = createMetrics({ status: () => now, tablesMax: 1 });
    const named = async () =>
      parsePrometheus(await read())
        .get('waltide_sink_table_events_total')!
        .samples.map(({ labels }) => labels.table);
    expect(await named()).toEqual(['(others)', 't.busy']);
    now = pipelineStatus({
      copy: [],
      sinks: [sinkStatus({ tables: [...tables, table('t.busier', { events: 1e6 })] })],
    });
    expect(new Set(await named())).toEqual(new Set(['(others)', 't.busy']));
    now = pipelineStatus({ copy: [], sinks: [sinkStatus({ tables: [table('t.busier'), table('t.idle')] })] });
    await named();
    expect(new Set(await named())).toEqual(new Set(['(others)', 't.busier']));
  });
});
