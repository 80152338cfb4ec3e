import { Cron } from 'croner';
import { z } from 'zod';
import { about, name, path } from './common.ts';
import { compression, keep, rowGroupSize } from './exports.ts';

const cron = z.string().superRefine((text, context) => {
  try {
    new Cron(text, { mode: '5-or-6-parts', paused: true });
  } catch (error) {
    context.addIssue(
      `must be a cron expression such as "0 2 * * *" (minute hour day month weekday; seconds may come first): ${(error as Error).message}`,
    );
  }
});

const timeZone = z.string().superRefine((zone, context) => {
  try {
    new Intl.DateTimeFormat('en', { timeZone: zone });
  } catch {
    context.addIssue('must be a time zone such as UTC or Europe/Berlin');
  }
});

const common = {
  name: name.meta(about('Unique; its runs are recorded under it.')),
  cron: cron.meta(about('When it is due: minute hour day month weekday, with seconds before them if wanted.')),
  /** The only zone in which every time of day comes exactly once a day. */
  timeZone: timeZone.default('UTC').meta(about('Time zone of `cron`.')),
  /** Whoever has many pipelines at one time of day knows it. */
  jitterMs: z
    .number()
    .int()
    .nonnegative()
    .max(24 * 3_600_000)
    .default(0)
    .meta(about('It begins up to so much later, by chance, so that many pipelines do not begin at once.')),
  /** What is late already should not become later. */
  overlap: z
    .enum(['skip', 'wait', 'cancel'])
    .default('skip')
    .meta(about('Where its last run still goes on: skip this one, wait for its turn, or cancel the last one.')),
  /** One run brings up to date what several missed ones would have. */
  catchUp: z
    .enum(['none', 'once', 'all'])
    .default('once')
    .meta(about('What was missed while no process ran: left out, made up for by one run, or each by its own.')),
  enabled: z.boolean().default(true).meta(about('False: only `waltide schedule run` starts it.')),
};

const tables = z.array(z.string().min(1)).min(1);
const rowsPerSecondMax = z.number().int().min(1).optional();

const snapshot = z.strictObject({
  ...common,
  type: z.literal('snapshot').meta(about('snapshot: read tables again and replace their rows in the sinks.')),
  tables: tables.meta(about('Patterns of captured tables, as in source.tables.')),
  sinks: z.array(name).min(1).optional().meta(about('Only for these sinks; all when left out.')),
  where: z.string().min(1).optional().meta(about('Refreshes the rows that meet this condition in place.')),
  rowsPerSecondMax: rowsPerSecondMax.meta(about('Most rows a second, per table.')),
});

const replay = z.strictObject({
  ...common,
  type: z.literal('replay').meta(about('replay: apply the changes of the last hours once more.')),
  sink: name.meta(about('Which sink.')),
  tables: tables.optional().meta(about('Only these tables (schema.table, no patterns); all when left out.')),
  hours: z.number().positive().meta(about('How far to go back.')),
});

const validate = z.strictObject({
  ...common,
  type: z.literal('validate').meta(about('validate: compare sinks with the source; an error where they differ.')),
  tables: tables.optional().meta(about('Patterns of captured tables; all when left out.')),
  sinks: z.array(name).min(1).optional().meta(about('Only these sinks; all that can be compared when left out.')),
  checks: z
    .array(z.enum(['row_count', 'data_hash', 'referential_integrity', 'business_rules']))
    .min(1)
    .optional()
    .meta(about('Only these checks; all when left out.')),
  sample: z.number().int().min(1).optional().meta(about('Only so many rows of each table, at random.')),
  /** What a person has not looked at is not changed unasked. */
  repair: z.boolean().default(false).meta(about('Bring differing rows to the sink again, and compare them once more.')),
  rowsPerSecondMax: rowsPerSecondMax.meta(about('Most rows a second; default: validation.rowsPerSecondMax.')),
});

const cleanup = z.strictObject({
  ...common,
  type: z.literal('cleanup').meta(about('cleanup: remove what is old from the control schema.')),
  historyDays: z.number().positive().optional().meta(about('How old; default: tracking.historyDays.')),
});

const pull = z.strictObject({
  ...common,
  type: z.literal('pull').meta(about('pull: bring rows of elsewhere into a table of the source, by your own code.')),
  path: z
    .string()
    .min(1)
    .meta(
      path('A JavaScript module that exports `pull(cursor, { config, log, signal })`, an async iterator of pages.'),
    ),
  table: z.string().min(1).meta(about('The table to write to, schema.table; no other is written to.')),
  key: z
    .array(z.string().min(1))
    .min(1)
    .optional()
    .meta(about('Columns that tell rows apart; default: its primary key.')),
  columns: z
    .array(z.string().min(1))
    .min(1)
    .optional()
    .meta(about('The only columns to be written, beside the key; default: all that are not generated.')),
});

const module = z.strictObject({
  ...common,
  type: z.literal('module').meta(about('module: your own code.')),
  path: z
    .string()
    .min(1)
    .meta(
      path('A JavaScript module that exports `run(run, { config, log, tracked, query })`, or has it as its default.'),
    ),
});

const exported = z.strictObject({
  ...common,
  type: z.literal('export').meta(about('export: write tables of a sink as Parquet.')),
  sink: name.meta(about('Which sink.')),
  to: z.string().min(1).meta(path('A directory for exports of this sink alone.')),
  tables: z
    .array(z.string().min(1))
    .min(1)
    .optional()
    .meta(about('Only these (schema.table, no patterns); all when left out.')),
  partitionBy: z
    .array(z.string().min(1))
    .min(1)
    .optional()
    .meta(about('Columns whose values make directories, col=value.')),
  where: z.string().min(1).optional().meta(about("Only rows that meet this condition, in the sink's SQL.")),
  compression: compression.optional().meta(about('Default: exports.compression.')),
  rowGroupSize: rowGroupSize.optional().meta(about('Default: exports.rowGroupSize.')),
  keep: keep.optional().meta(about('Default: exports.keep.')),
});

const backup = z.strictObject({
  ...common,
  type: z.literal('backup').meta(about('backup: copy the store of a sink, offsets included.')),
  sink: name.meta(about('Which sink.')),
  to: z.string().min(1).meta(path('The directory for the copies.')),
  /** A week of daily ones. */
  keep: keep.default(7).meta(about('How many copies of this sink stay there, the newest included.')),
});

const optimize = z.strictObject({
  ...common,
  type: z.literal('optimize').meta(about('optimize: make the store of a sink smaller, and faster to read.')),
  sink: name.meta(about('Which sink.')),
});

export const schedule = z.discriminatedUnion('type', [
  snapshot,
  replay,
  validate,
  cleanup,
  exported,
  backup,
  optimize,
  pull,
  module,
]);
