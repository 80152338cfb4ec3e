import { z } from 'zod';

/*
 * What the dashboard takes of the API's answers. A process of another version may lack a field or spell it otherwise: what
 * cannot be understood counts as absent, so that the rest is shown.
 */

const number = z.number().catch(0);
const numberOrNull = z.number().nullable().catch(null);
const text = z.string().catch('');
const textOrNull = z.string().nullable().catch(null);
const list = <T extends z.ZodType>(item: T) => z.array(item).catch([]);

const budget = z.object({ level: text, retainedBytes: number, budgetBytes: numberOrNull, secondsLeft: numberOrNull });

const source = z.object({
  database: text,
  slot: text,
  connected: z.boolean().catch(false),
  lagBytes: number,
  events: number,
  eventsPerSecond: number,
  heldBytes: number,
  budget: budget.nullable().catch(null),
});

const letters = z
  .object({ open: number, tables: list(z.object({ name: text, open: number })) })
  .catch({ open: 0, tables: [] });

const sink = z.object({
  name: text,
  type: text,
  appliedLsn: text,
  lagBytes: number,
  lagSeconds: numberOrNull,
  events: number,
  eventsPerSecond: number,
  pendingEvents: number,
  retries: number,
  lastError: textOrNull,
  breaker: z.string().catch('closed'),
  tables: list(z.object({ name: text, events: number, lagSeconds: numberOrNull })),
  stopped: list(z.object({ name: text, reason: text })),
  deadLetters: letters,
});

const copying = z.object({
  table: text,
  rows: number,
  estimatedRows: number,
  secondsLeft: numberOrNull,
  state: text,
  done: z.boolean().catch(true),
});

/** Of `cdc/status`. */
export const statusReading = z.object({
  state: z.string(),
  version: text,
  pid: number,
  role: text,
  startedAt: text,
  ready: z.boolean().catch(false),
  failure: textOrNull,
  source: source.nullable().catch(null),
  transport: z
    .object({ type: text, bytesInFlight: number, deadLetters: letters })
    .catch({ type: '', bytesInFlight: 0, deadLetters: { open: 0, tables: [] } }),
  memory: z.object({ rssBytes: number }).catch({ rssBytes: 0 }),
  sinks: list(sink),
  copy: list(copying),
  stuck: list(text),
});
export type StatusReading = z.output<typeof statusReading>;
export type SinkReading = StatusReading['sinks'][number];

const run = z.object({
  id: text,
  sync_type: text,
  sync_timestamp: text,
  status: text,
  records_processed: number,
  duration_seconds: number,
  error_message: textOrNull,
});

const statistics = z.object({
  sync_type: text,
  runs: number,
  in_progress: number,
  errors: number,
  success_rate: numberOrNull,
  duration_seconds_average: numberOrNull,
  records: number,
  last_at: text,
  last_status: text,
});

const alert = z.object({ rule: text, subject: text, state: text, severity: text, summary: text, since: text });

/** Of `monitoring/dashboard`: what is in PostgreSQL, and so the same for every process of a slot. */
export const recordsReading = z.object({
  runs: list(run),
  statistics: list(statistics),
  instances: number,
  /** Those that are open; null of a version that tells none. */
  alerts: z.array(alert).nullable().catch(null),
});
export type RecordsReading = z.output<typeof recordsReading>;
