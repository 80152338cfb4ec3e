/*
 * A strict reader of Prometheus's text format 0.0.4 (exposition_formats.md), which accepts nothing that the format does not
 * have, and checks what a scrape would only show later: samples twice, samples of no metric, buckets that fall.
 */

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Metric {
  readonly type: string;
  readonly help: string;
  readonly samples: readonly Sample[];
}

const NAME = '[a-zA-Z_:][a-zA-Z0-9_:]*';
// prom-client writes `Nan`, which Prometheus's own reader takes as well.
const SAMPLE = new RegExp(
  `^(${NAME})(?:\\{(.*)\\})? (NaN|Nan|[+-]Inf|[+-]?(?:\\d+\\.?\\d*|\\.\\d+)(?:[eE][+-]?\\d+)?)$`,
);
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\\\|\\"|\\n)*)"(?:,|$)/;
const SUFFIXES: Readonly<Record<string, readonly string[]>> = {
  histogram: ['_bucket', '_sum', '_count'],
  summary: ['', '_sum', '_count'],
};

function labelsOf(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  let rest = text;
  while (rest !== '') {
    const match = LABEL.exec(rest);
    if (!match) throw new Error(`no label: ${rest}`);
    const [whole, name, value] = match as unknown as [string, string, string];
    if (name in labels) throw new Error(`label ${name} twice: ${text}`);
    labels[name] = value.replace(/\\(.)/g, (_, letter: string) => (letter === 'n' ? '\n' : letter));
    rest = rest.slice(whole.length);
  }
  return labels;
}

function numberOf(text: string): number {
  return text === '+Inf' ? Number.POSITIVE_INFINITY : text === '-Inf' ? Number.NEGATIVE_INFINITY : Number(text);
}

/** Throws at the first thing that is wrong. */
export function parsePrometheus(text: string): Map<string, Metric> {
  if (!text.endsWith('\n')) throw new Error('the last line must end');
  const metrics = new Map<string, { type: string; help: string; samples: Sample[] }>();
  const seen = new Set<string>();
  let current = '';
  for (const line of text.slice(0, -1).split('\n')) {
    if (line === '') continue;
    const help = new RegExp(`^# HELP (${NAME}) (.+)$`).exec(line);
    const type = new RegExp(`^# TYPE (${NAME}) (counter|gauge|histogram|summary|untyped)$`).exec(line);
    if (help) {
      if (metrics.has(help[1]!)) throw new Error(`metric twice: ${line}`);
      current = help[1]!;
      metrics.set(current, { type: '', help: help[2]!, samples: [] });
    } else if (type) {
      const metric = metrics.get(type[1]!);
      if (!metric || type[1] !== current || metric.samples.length > 0) throw new Error(`not where it belongs: ${line}`);
      metric.type = type[2]!;
    } else {
      const match = SAMPLE.exec(line);
      const metric = metrics.get(current);
      if (!match || !metric) throw new Error(`no sample: ${line}`);
      const [, name, labels = '', value] = match as unknown as [string, string, string | undefined, string];
      const suffixes = SUFFIXES[metric.type] ?? [''];
      if (!suffixes.some((suffix) => name === current + suffix)) throw new Error(`not of ${current}: ${line}`);
      const sample = { name, labels: labelsOf(labels), value: numberOf(value) };
      const key = `${name} ${JSON.stringify(Object.entries(sample.labels).sort())}`;
      if (seen.has(key)) throw new Error(`sample twice: ${line}`);
      seen.add(key);
      if (metric.type === 'counter' && !(sample.value >= 0)) throw new Error(`a counter below 0: ${line}`);
      metric.samples.push(sample);
    }
  }
  for (const [name, metric] of metrics) {
    if (metric.type === '') throw new Error(`${name} has no type`);
    if (metric.type === 'histogram') checkBuckets(name, metric.samples);
  }
  return metrics;
}

function checkBuckets(name: string, samples: readonly Sample[]): void {
  const series = new Map<string, { buckets: Sample[]; count: number | null; sum: number | null }>();
  for (const sample of samples) {
    const { le: _, ...labels } = sample.labels;
    const key = JSON.stringify(labels);
    const one = series.get(key) ?? { buckets: [], count: null, sum: null };
    series.set(key, one);
    if (sample.name.endsWith('_bucket')) one.buckets.push(sample);
    else if (sample.name.endsWith('_count')) one.count = sample.value;
    else one.sum = sample.value;
  }
  for (const [key, { buckets, count, sum }] of series) {
    const bounds = buckets.map(({ labels }) => numberOf(labels.le ?? 'NaN'));
    const rising = (values: readonly number[], strictly: boolean): boolean =>
      values.every((value, i) => i === 0 || (strictly ? value > values[i - 1]! : value >= values[i - 1]!));
    if (bounds.at(-1) !== Number.POSITIVE_INFINITY || !rising(bounds, true))
      throw new Error(`bounds of ${name} ${key}`);
    if (
      !rising(
        buckets.map(({ value }) => value),
        false,
      ) ||
      buckets.at(-1)!.value !== count ||
      sum === null
    )
      throw new Error(`buckets of ${name} ${key}`);
  }
}

/** The value of the one sample with exactly these labels; undefined where there is none. */
export function sampleOf(
  metrics: ReadonlyMap<string, Metric>,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const base = metrics.has(name) ? name : name.replace(/_(bucket|sum|count)$/, '');
  const wanted = JSON.stringify(Object.entries(labels).sort());
  return metrics
    .get(base)
    ?.samples.find((one) => one.name === name && JSON.stringify(Object.entries(one.labels).sort()) === wanted)?.value;
}
