import { collectDefaultMetrics, type Metric, Registry } from 'prom-client';
import type { HistogramStatus } from '../histogram.ts';
import type { PipelineStatus } from '../pipeline/status.ts';
import type { Family, Labels, Picture } from './family.ts';
import { PROCESS_FAMILIES } from './process-families.ts';
import { LAG_FAMILIES, LETTER_FAMILIES, SINK_FAMILIES, VALIDATION_FAMILIES } from './sink-families.ts';
import { SOURCE_FAMILIES } from './source-families.ts';
import type { StoredPicture } from './stored.ts';
import { TableNames } from './table-names.ts';

/** Every metric of Waltide's own, in the order of the reference page (docs/metrics.md). */
export const FAMILIES: readonly (readonly [heading: string, families: readonly Family[]])[] = [
  ['Lag', LAG_FAMILIES],
  ['Source, slot and snapshots', SOURCE_FAMILIES],
  ['Sinks', SINK_FAMILIES],
  ['Dead letters', LETTER_FAMILIES],
  ['Validation', VALIDATION_FAMILIES],
  ['Process, runs and writes', PROCESS_FAMILIES],
];

interface Value {
  readonly metricName: string;
  readonly labels: Record<string, string>;
  value: number;
}

/** What prom-client asks a metric for. */
interface Collected {
  readonly help: string;
  readonly name: string;
  readonly type: Family['type'];
  readonly values: readonly Value[];
  readonly aggregator: 'sum';
}

/** The samples of one metric as of the last picture. */
class Samples {
  readonly #family: Family;
  readonly #tables: TableNames;
  #values: Value[] = [];

  constructor(family: Family, tables: TableNames) {
    this.#family = family;
    this.#tables = tables;
  }

  get name(): string {
    return this.#family.name;
  }

  take(picture: Picture): void {
    this.#values = [];
    const family = this.#family;
    if (family.type === 'histogram')
      family.sample(picture, (status, labels) =>
        this.#values.push(...buckets(family.name, status, this.#shown(labels))),
      );
    else {
      const folded = new Map<string, Value>();
      family.sample(picture, (value, labels) => {
        const shown = this.#shown(labels);
        const key = JSON.stringify(shown);
        const before = folded.get(key);
        if (before) before.value = FOLD[family.fold](before.value, value);
        else folded.set(key, { metricName: family.name, labels: shown, value });
      });
      this.#values = [...folded.values()];
    }
  }

  async get(): Promise<Collected> {
    const { name, help, type } = this.#family;
    return { name, help, type, values: this.#values, aggregator: 'sum' };
  }

  #shown(labels: Labels = {}): Record<string, string> {
    const shown: Record<string, string> = {};
    for (const [label, value] of Object.entries(labels))
      if (value != null) shown[label] = label === 'table' ? this.#tables.shown(value) : value;
    return shown;
  }
}

const FOLD = { sum: (a: number, b: number) => a + b, max: Math.max, min: Math.min };

/** Prometheus's buckets are cumulative. */
function buckets(name: string, { bounds, counts, sum }: HistogramStatus, labels: Record<string, string>): Value[] {
  let count = 0;
  const values = counts.map((some, i) => {
    count += some;
    return { metricName: `${name}_bucket`, labels: { ...labels, le: String(bounds[i] ?? '+Inf') }, value: count };
  });
  return [
    ...values,
    { metricName: `${name}_sum`, labels, value: sum },
    { metricName: `${name}_count`, labels, value: count },
  ];
}

export interface MetricsOptions {
  readonly status: () => PipelineStatus;
  /** What the control schema has; null where it cannot be asked. */
  readonly stored?: () => Promise<StoredPicture | null>;
  /** See `metrics.tablesMax`. */
  readonly tablesMax: number;
}

export interface Metrics {
  readonly contentType: string;
  /** In Prometheus's text format. Rejects as `status` throws. */
  read(): Promise<string>;
}

/** A registry of its own, so that a library user's metrics stay theirs. Every scrape reads the status once. */
export function createMetrics({ status, stored = async () => null, tablesMax }: MetricsOptions): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const tables = new TableNames(tablesMax);
  const metrics = FAMILIES.flatMap(([, families]) => families).map((family) => new Samples(family, tables));
  // It asks a metric for no more than its name and samples.
  for (const metric of metrics) registry.registerMetric(metric as unknown as Metric);
  return {
    contentType: registry.contentType,
    read: async () => {
      const fromStore = await stored();
      const picture = { status: status(), stored: fromStore };
      tables.begin(picture.status.sinks);
      for (const metric of metrics) metric.take(picture);
      return registry.metrics();
    },
  };
}
