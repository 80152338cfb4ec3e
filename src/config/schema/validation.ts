import { z } from 'zod';
import { about, ms, name } from './common.ts';

const rule = z.strictObject({
  name: name.meta(about('Unique; reports name the rule by it.')),
  /** Rows are what a person wants to see; a count would have to be asked for again. */
  sql: z.string().min(1).meta(about('One SELECT of the rows that break the rule: it holds where there are none.')),
  /** What is wrong in the source is wrong in every sink. */
  on: z
    .enum(['source', 'sink', 'both'])
    .default('source')
    .meta(about('Where it is asked: in PostgreSQL, in the sinks that speak SQL, or in both.')),
});

export const validation = z.strictObject({
  /** Comparing is work for the source; nothing is held up unasked. */
  rowsPerSecondMax: z
    .number()
    .int()
    .min(1)
    .optional()
    .meta(about('Most rows a second that are compared; no limit when left out.')),
  /** What computes texts and hashes in the source is one core for each session; two keep a sink of two threads busy. */
  workers: z
    .number()
    .int()
    .min(1)
    .max(16)
    .default(2)
    .meta(about('Sessions in the source that compute digests at once; 1 with a limit of rows a second.')),
  /** More than these are no single rows gone astray: a new snapshot of the table is the remedy. */
  differencesMax: z
    .number()
    .int()
    .min(1)
    .default(100_000)
    .meta(about('Differences that are looked for in a table; past them it counts as different as a whole.')),
  /** The most usual name. */
  sinceColumn: z
    .string()
    .min(1)
    .default('updated_at')
    .meta(about('Column that says when a row was last written, for `waltide validate --since`.')),
  /** A rule is one query; one that takes longer would better be a report. */
  ruleTimeoutMs: ms.default(60_000).meta(about('How long one rule may take.')),
  rules: z.array(rule).default([]).meta(about('Business rules, each an SQL assertion.')),
});
