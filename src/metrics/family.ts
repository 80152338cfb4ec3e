import type { HistogramStatus } from '../histogram.ts';
import type { PipelineStatus } from '../pipeline/status.ts';
import type { StoredPicture } from './stored.ts';

/** What a scrape is made from: this process, and what is in the control schema. */
export interface Picture {
  readonly status: PipelineStatus;
  /** Null where PostgreSQL could not be asked. */
  readonly stored: StoredPicture | null;
}

export type LabelName =
  | 'version'
  | 'role'
  | 'transport'
  | 'state'
  | 'slot'
  | 'level'
  | 'stage'
  | 'sink'
  | 'table'
  | 'kind'
  | 'sync_type'
  | 'rule'
  | 'severity';
/** Null, or one that is absent: the sample has no such label. */
export type Labels = Partial<Record<LabelName, string | null>>;

/** What one label means; a metric has no other ones. */
export const LABELS: Readonly<Record<LabelName, string>> = {
  version: 'of Waltide',
  role: '`all`, `capture` or `apply`',
  transport: '`in-process` or `kafka`',
  state: 'one sample for each state, 1 for the one that is',
  slot: '`source.slot`',
  level: 'one sample for each level, 1 for the one that is',
  stage:
    '`captured`: read from the slot; `published`: durable in Kafka, or in-process in every sink; `delivered`: taken over by a sink; `applied`: durable in it',
  sink: 'its name; `*` where every sink is meant',
  table: '`schema.table`; `(others)` beyond `metrics.tablesMax`',
  kind: '`initial`, `incremental` or `partial`',
  sync_type: 'as in `waltide history`',
  rule: 'of docs/alerts.md',
  severity: '`info`, `warning` or `critical`',
};

export type Add<Value> = (value: Value, labels?: Labels) => void;

interface Described {
  /** By Prometheus's conventions: base units, the unit last, counters end in _total. */
  readonly name: string;
  readonly help: string;
  /** For people who look at it: what is no cause for concern, and what is. */
  readonly worry: string;
  readonly labels: readonly LabelName[];
}

interface NumberFamily extends Described {
  readonly type: 'counter' | 'gauge';
  /** What becomes of tables beyond the bound, and of tables of one name: their sum, or the one that is worst. */
  readonly fold: 'sum' | 'max' | 'min';
  sample(picture: Picture, add: Add<number>): void;
}

interface HistogramFamily extends Described {
  readonly type: 'histogram';
  sample(picture: Picture, add: Add<HistogramStatus>): void;
}

/** One metric: its samples are taken anew at every scrape, so that what is gone has none. */
export type Family = NumberFamily | HistogramFamily;

export type Told = readonly [name: string, help: string, worry: string];
type Source = NonNullable<PipelineStatus['source']>;
type Sink = PipelineStatus['sinks'][number];

export function gauge(
  [name, help, worry]: Told,
  labels: readonly LabelName[],
  sample: NumberFamily['sample'],
  fold: NumberFamily['fold'] = 'max',
): Family {
  return { name, help, worry, labels, type: 'gauge', fold, sample };
}

export function counter(
  [name, help, worry]: Told,
  labels: readonly LabelName[],
  sample: NumberFamily['sample'],
): Family {
  return { name, help, worry, labels, type: 'counter', fold: 'sum', sample };
}

/** One sample per source; none where `value` gives null. */
export function ofSource(
  type: NumberFamily['type'],
  told: Told,
  value: (source: Source) => number | null | undefined,
): Family {
  return (type === 'gauge' ? gauge : counter)(told, ['slot'], ({ status: { source } }, add) => {
    const sampled = source && value(source);
    if (source && sampled != null) add(sampled, { slot: source.slot });
  });
}

/** One sample per sink; none where `value` gives null. */
export function ofSinks(type: NumberFamily['type'], told: Told, value: (sink: Sink) => number | null): Family {
  return (type === 'gauge' ? gauge : counter)(told, ['sink'], ({ status: { sinks } }, add) => {
    for (const sink of sinks) {
      const sampled = value(sink);
      if (sampled !== null) add(sampled, { sink: sink.name });
    }
  });
}

export function histogramOfSinks([name, help, worry]: Told, value: (sink: Sink) => HistogramStatus): Family {
  return {
    ...{ name, help, worry, labels: ['sink'] },
    type: 'histogram',
    sample: ({ status: { sinks } }, add) => {
      for (const sink of sinks) add(value(sink), { sink: sink.name });
    },
  };
}

export function histogramOfSource([name, help, worry]: Told, value: (source: Source) => HistogramStatus): Family {
  return {
    ...{ name, help, worry, labels: ['slot'] },
    type: 'histogram',
    sample: ({ status: { source } }, add) => {
      if (source) add(value(source), { slot: source.slot });
    },
  };
}

/** An instant in Unix time, in seconds. */
export function unixSeconds(at: string | Date): number {
  return new Date(at).getTime() / 1000;
}
