import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Family, LABELS } from '../src/metrics/family.ts';
import { FAMILIES } from '../src/metrics/metrics.ts';

/*
 * Writes docs/metrics.md from the definitions that scrapes are made from. `npm run docs` writes it; a test fails where it
 * is stale.
 */

const FILE = fileURLToPath(new URL('metrics.md', import.meta.url));

const UNITS: readonly (readonly [RegExp, string])[] = [
  [/_timestamp_seconds$/, 's, Unix time'],
  [/_bytes_per_second$/, 'bytes/s'],
  [/_seconds(_left)?$/, 's'],
  [/_(safe_)?bytes(_total)?$/, 'bytes'],
  [/_rows(_total|_estimated)?$/, 'rows'],
  [/_events(_total)?$/, 'events'],
  [/_ratio$/, '0 to 1'],
];

function line({ name, type, labels, help, worry }: Family): string {
  const unit = UNITS.find(([pattern]) => pattern.test(name))?.[1] ?? '';
  const cells = [`\`${name}\``, type, unit, labels.map((label) => `\`${label}\``).join(', '), help, worry];
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
}

function section([heading, families]: (typeof FAMILIES)[number]): string {
  return `## ${heading}

| Metric | Type | Unit | Labels | What it says | When to worry |
|---|---|---|---|---|---|
${families.map(line).join('\n')}
`;
}

export function page(): string {
  return `# Metrics

<!-- Written by docs/metrics.ts (npm run docs) from the code. Do not edit. -->

A running process serves these in Prometheus's text format: \`/metrics\` on \`metrics.port\` (9464, on 127.0.0.1 unless
\`metrics.host\` says otherwise), and \`GET /api/v1/data-sync/monitoring/metrics/prometheus\` of the API. Beside them are those
of the Node.js process itself, as prom-client names them: \`process_*\` (CPU, memory, file handles) and \`nodejs_*\` (heap by
space, garbage collection, event loop lag).

- Every sample is taken when it is asked for, from counters that are kept per batch. What is not there any more (a table that was
  dropped, renamed or is not captured any more, a sink that was removed) has no sample; what is not known has none either.
- Counters begin at 0 with the process, and where the pipeline begins again within it (a replay, a slot that was given up).
  Prometheus's \`rate()\` and \`increase()\` expect that.
- At most \`metrics.tablesMax\` tables (500) have time series of their own, the busiest first; the others are put together as
  table \`(others)\`: counters and dead letters as their sum, lags and the like as the worst of them.
- Metrics of runs, validations, instances and the write queue come from the control schema: they are those of all processes, as
  of ten seconds ago at most.

## How lag is measured

A commit is known when it comes through the slot. Beside that, the process writes a heartbeat into the WAL every
\`source.heartbeatIntervalMs\` (10 s), at a time that it knows, and waits for it at the other end of the road. So a lag is 0 only where
what was committed until a heartbeat ago has arrived; a stream that stands still is seen after one heartbeat, though nobody
else commits; and \`waltide_sink_heartbeat_round_trip_seconds\` is what a commit takes to every reader while nothing happens. A server
that says nothing at all counts as behind from the moment it was last heard, after 30 s or two heartbeats.

In role \`apply\` the records in Kafka that say how far the capture is take the place of heartbeats: a lag there is counted from when
such a record was seen, or from the commit of the oldest change at hand, whichever is longer ago; what the capture lacks itself is in the
metrics of the process that captures. Ages compare this machine's clock with the server's.

${FAMILIES.map(section).join('\n')}
## Labels

| Label | Value |
|---|---|
${Object.entries(LABELS)
  .map(([label, value]) => `| \`${label}\` | ${value} |`)
  .join('\n')}

## Queries that are often wanted

| | |
|---|---|
| How old is what readers see | \`max by (sink) (waltide_sink_lag_seconds)\` |
| Which stage holds it up | \`topk(1, waltide_stage_lag_seconds)\`, then the first of its road: captured, published, delivered, applied |
| Events per second and sink | \`rate(waltide_sink_events_total[1m])\` |
| 99 of 100 batches are in the sink within | \`histogram_quantile(0.99, rate(waltide_sink_commit_delay_seconds_bucket[5m]))\` |
| Share of the time that a sink spends on applying | \`rate(waltide_sink_apply_seconds_sum[5m])\` |
| Progress of a snapshot | \`waltide_snapshot_rows_total / waltide_snapshot_rows_estimated\` |
`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(FILE, page());

/** True where the file says what the code does. */
export const isFresh = (): boolean => readFileSync(FILE, 'utf8') === page();
