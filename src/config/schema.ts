import { z } from 'zod';
import { alerts, SEVERITIES } from './schema/alerts.ts';
import { api } from './schema/api.ts';
import { about, ms, path } from './schema/common.ts';
import { deadLetters } from './schema/dead-letters.ts';
import { exports } from './schema/exports.ts';
import { endpoint, log } from './schema/process.ts';
import { schedule } from './schema/schedules.ts';
import { sink } from './schema/sinks.ts';
import { snapshot } from './schema/snapshot.ts';
import { source } from './schema/source.ts';
import { strategy, tableStrategies } from './schema/strategy.ts';
import { tracing } from './schema/tracing.ts';
import { tracking } from './schema/tracking.ts';
import { transport } from './schema/transport.ts';
import { validation } from './schema/validation.ts';
import { writes } from './schema/writes.ts';

/*
 * Every key, its default, and why that default. The same schema checks files and the environment, names the
 * environment's variables, writes the JSON Schema for editors and types the library's `defineConfig`. Units come
 * last in names. `kind` marks file paths (resolved against the config file) and secrets (masked when printed).
 */

export const configSchema = z.strictObject({
  source: source.meta(about('The PostgreSQL database whose changes are captured.')),
  enabled: z
    .boolean()
    .default(true)
    .meta(
      about('false: `waltide run` does nothing and ends with exit code 0. A slot that is there goes on keeping WAL.'),
    ),
  snapshot: snapshot.prefault({}).meta(about('How existing rows are read, at first and later.')),
  transport: transport.prefault({ type: 'in-process' }).meta(about('What carries events to the sinks.')),
  sinks: z.array(sink).default([]).meta(about('Where changes end up.')),
  deadLetters: deadLetters.prefault({}).meta(about('Changes that a sink refused: kept, retried or discarded.')),
  /** What people expect of a copy that follows, at little cost to the sink. */
  strategy: strategy
    .default('near_real_time')
    .meta(
      about(
        'How changes are gathered before they are applied: real_time not at all, near_real_time 10 ms, batch 5 s, hybrid 0 to 0.5 s as the sink is busy, recovery as much as fits.',
      ),
    ),
  tableStrategies: tableStrategies
    .default([])
    .meta(about('Tables that are gathered otherwise; of the tables of one transaction the shortest wait wins.')),
  tracking: tracking.prefault({}).meta(about('How runs of sync work are recorded, tried again and kept.')),
  validation: validation.prefault({}).meta(about('How sinks are compared with the source.')),
  exports: exports.prefault({}).meta(about('How tables are exported as Parquet.')),
  writes: writes.prefault({}).meta(about('Writing to the source with a consistency level.')),
  schedules: z.array(schedule).default([]).meta(about('Work that is done at certain times, each a tracked run.')),
  alerts: alerts.prefault({}).meta(about('What somebody should know of, and who is told.')),
  stateDir: z.string().min(1).default('.waltide').meta(path('Where a running process leaves its control address.')),
  api: api.prefault({}).meta(about('The REST API.')),
  metrics: endpoint.prefault({}).meta(about('Prometheus metrics and health checks.')),
  tracing: tracing.prefault({}).meta(about('OpenTelemetry traces: what became of each batch, and when.')),
  log: log.prefault({}).meta(about('What is logged to stderr.')),
  /** Draining in-flight batches on SIGTERM; Kubernetes kills after 30 s. */
  shutdownTimeoutMs: ms.default(20_000).meta(about('How long draining may take after SIGTERM or Ctrl-C.')),
});

/** What a user writes: defaults left out. */
export type ConfigInput = z.input<typeof configSchema>;
/** What the program uses: every default filled in. */
export type Config = z.output<typeof configSchema>;
export type SourceConfig = Config['source'];
export type KafkaConfig = Extract<Config['transport'], { type: 'kafka' }>;
export type InProcessConfig = Extract<Config['transport'], { type: 'in-process' }>;
export type DuckdbSinkConfig = Extract<Config['sinks'][number], { type: 'duckdb' }>;
export type AlertsConfig = Config['alerts'];
export { SEVERITIES };
export type Severity = (typeof SEVERITIES)[number];
export type WebhookConfig = AlertsConfig['webhooks'][number];
export type ApiConfig = Config['api'];
export type ScheduleConfig = Config['schedules'][number];
export type TrackingConfig = Config['tracking'];
/** Bounds of what a sink applies in one transaction. */
export type BatchConfig = { readonly [K in keyof DuckdbSinkConfig['batch']]-?: number };
export type BreakerConfig = DuckdbSinkConfig['breaker'];
