import { z } from 'zod';
import { VALIDATION_RUN, validationRun } from '../../control/validation-run.ts';
import { WaltideError } from '../../errors.ts';
import {
  listValidations,
  readValidation,
  type ValidationRecord,
  validationResults,
} from '../../postgres/validations.ts';
import { CHECKS, type TableResult, type ValidationReport } from '../../validation/report.ts';
import { mayDo } from '../access.ts';
import { Accepted, type Deps, defineRoute, type Principal } from '../route.ts';

const texts = z.array(z.string());
const difference = z.object({
  kind: z.enum(['missing', 'extra', 'different']),
  key: texts,
  columns: z.array(z.object({ name: z.string(), source: z.string().nullable(), sink: z.string().nullable() })),
});
const digest = z.string().nullable().describe('of all rows; null where only some rows are compared');
const digests = { source_digest: digest, sink_digest: digest };
const tableResult = z.object({
  sink: z.string(),
  table: z.string(),
  ...{ source_rows: z.number(), sink_rows: z.number(), ...digests },
  ...{ missing: z.number(), extra: z.number(), different: z.number() },
  unsettled: z.number().describe('rows that changed faster than they could be compared'),
  differences: z.array(difference).describe('the first ones'),
  truncated: z.boolean().describe('there are more differences than are looked for'),
  score: z.number().describe('percent of rows that are equal'),
  lsn: z.string(),
  columns_left_out: texts,
  ...{ repaired: z.number(), bytes_moved: z.number(), duration_ms: z.number() },
});
const leftOut = z.array(
  z.object({
    sink: z.string(),
    table: z.string(),
    why: z.string(),
    meant: z
      .boolean()
      .default(false)
      .meta({ description: 'True where the configuration keeps it from being compared.' }),
  }),
);
const references = z.array(
  z.object({
    ...{ sink: z.string(), table: z.string(), constraint: z.string(), references: z.string() },
    orphans: z.array(z.object({ key: texts, rows: z.number() })).describe('values that lead nowhere, the first ones'),
  }),
);
const rules = z.array(
  z.object({
    ...{ rule: z.string(), side: z.string(), holds: z.boolean(), violations: z.number() },
    rows: z.array(z.array(z.unknown())),
    error: z.string().nullable().describe('why the database did not answer, and what to do'),
  }),
);
const validation = z.object({
  id: z.string(),
  state: z.enum(['running', 'completed', 'failed', 'cancelled']),
  ok: z.boolean().nullable(),
  score: z.number().nullable(),
  error: z.string().nullable(),
  started_at: z.date(),
  finished_at: z.date().nullable(),
  tables: z.array(tableResult),
  ...{ references, rules, left_out: leftOut },
});

const asked = {
  check_types: z.array(z.enum(CHECKS)).min(1).optional(),
  sinks: z.array(z.string().min(1).max(200)).optional(),
};
const started = z.object({ run_id: z.string().describe('GET consistency/check/{run_id} says how it goes') });
const table = z.string().min(1).max(200);

const check = defineRoute({
  method: 'POST',
  url: '/consistency/check',
  role: 'operator',
  summary: 'Compare sinks with the source, and bring what differs into line where that is asked for',
  body: z.strictObject({
    tables: z.array(table).max(1000).default([]).describe('names or patterns; all when left out'),
    ...asked,
    primary_key: z.array(z.string()).min(1).max(32).optional().describe('only this row of the one table'),
    since: z.string().min(1).max(100).optional().describe('only rows written since, by since_column'),
    since_column: z.string().min(1).max(63).optional(),
    sample: z.number().int().min(1).max(1_000_000).optional().describe('only so many rows, at random'),
    repair: z.boolean().default(false),
    rows_per_second_max: z.number().int().min(1).optional(),
    resume: z.string().min(1).max(64).optional().describe('id of a validation that did not come to its end'),
  }),
  reply: started,
  accepted: started,
  audited: ({ body: { tables, check_types, sinks, since, sample, repair, resume } }) => ({
    ...{ tables, check_types, sinks, since, sample, repair, resume },
  }),
  run: async ({ body }, { tracker, pipeline }) => {
    const { primary_key: key, check_types: checks, since_column: sinceColumn, ...rest } = body;
    const { rows_per_second_max: rowsPerSecondMax, ...request } = rest;
    const wish = { ...request, key, checks, sinceColumn, rowsPerSecondMax };
    await pipeline.checkValidation(wish);
    const work = validationRun(pipeline, wish);
    return new Accepted({ run_id: await tracker.start(VALIDATION_RUN, work, { retry: false }) });
  },
});

const progress = defineRoute({
  method: 'GET',
  url: '/consistency/check/:id',
  role: 'viewer',
  summary: 'How a comparison goes, and what it found',
  params: { id: z.string().regex(/^\d{1,18}$/, 'is no id of a run') },
  reply: z.object({
    status: z.enum(['in_progress', 'success', 'error']),
    rows: z.number(),
    error: z.string().nullable(),
    error_class: z.string().nullable().describe('config where what was asked for is at fault'),
    progress: z.record(z.string(), z.unknown()),
    validation: validation.nullable(),
  }),
  run: async ({ params, principal }, deps) => {
    const run = await deps.tracker.get(params.id);
    // Those of a schedule have its name.
    const id = typeof run?.metadata.validation === 'string' ? run.metadata.validation : null;
    if (!run || (run.syncType !== VALIDATION_RUN && id === null))
      throw new WaltideError(
        'NOT_FOUND',
        `there is no validation with run ${params.id}`,
        'GET consistency/status lists the last.',
      );
    const { status, records: rows, error, errorClass, metadata } = run;
    const found =
      id === null ? null : await deps.sessions.use((client) => readValidation(client, deps.config.source.slot, id));
    const validation = found && (await shown(found, deps, principal));
    return { status, rows, error, error_class: errorClass, progress: metadata, validation };
  },
});

const stop = defineRoute({
  method: 'DELETE',
  url: '/consistency/check/:id',
  role: 'operator',
  summary: 'End a comparison; it can be resumed',
  params: { id: z.string().regex(/^\d{1,18}$/, 'is no id of a run') },
  reply: z.object({ cancelled: z.boolean() }),
  run: async ({ params }, { tracker }) => ({ cancelled: await tracker.cancel(params.id) }),
});

const status = defineRoute({
  method: 'GET',
  url: '/consistency/status',
  role: 'viewer',
  summary: 'The last comparisons, newest first',
  query: { limit: z.coerce.number().int().min(1).max(100).default(10) },
  reply: z.object({ validations: z.array(validation) }),
  run: async ({ query, principal }, deps) => {
    const records = await deps.sessions.use((client) => listValidations(client, deps.config.source.slot, query.limit));
    return { validations: await Promise.all(records.map((record) => shown(record, deps, principal))) };
  },
});

const one = defineRoute({
  method: 'GET',
  url: '/consistency/validate/:table',
  role: 'operator',
  summary: 'Compare one table, or one row of it at once',
  params: { table },
  query: { primary_key: z.string().max(10_000).optional().describe('several columns as a JSON array of strings') },
  reply: z.object({ ok: z.boolean(), tables: z.array(tableResult) }),
  accepted: started,
  run: async ({ params, query, signal }, { pipeline, tracker }) => {
    const request = { tables: [params.table], checks: ['data_hash'] as const };
    if (query.primary_key === undefined) {
      await pipeline.checkValidation(request);
      const work = validationRun(pipeline, request);
      return new Accepted({ run_id: await tracker.start(VALIDATION_RUN, work, { retry: false }) });
    }
    const report = await pipeline.validate({ ...request, key: keyOf(query.primary_key) }, { signal });
    return { ok: report.ok, tables: report.tables.map(shownTable) };
  },
});

export const consistencyRoutes = [check, progress, stop, status, one];

/** `42`, or `["7","b77"]`. */
function keyOf(text: string): string[] {
  if (!text.startsWith('[')) return [text];
  try {
    const parsed = z.array(z.string()).min(1).safeParse(JSON.parse(text));
    if (parsed.success) return parsed.data;
  } catch {
    // As below.
  }
  throw new WaltideError('USAGE', 'primary_key is no JSON array of strings', 'For example: primary_key=["7","b77"].');
}

function shownTable(result: TableResult): z.input<typeof tableResult> {
  const { sourceRows, sinkRows, sourceDigest, sinkDigest, columnsLeftOut, bytesMoved, durationMs, ...rest } = result;
  return {
    ...rest,
    differences: rest.differences.map(({ kind, key, columns }) => ({ kind, key: [...key], columns: [...columns] })),
    ...{ source_rows: sourceRows, sink_rows: sinkRows, source_digest: sourceDigest, sink_digest: sinkDigest },
    ...{ columns_left_out: [...columnsLeftOut], bytes_moved: bytesMoved, duration_ms: durationMs },
  };
}

/** What differs is rows: a viewer is told how many. */
async function shown(
  record: ValidationRecord,
  { sessions }: Deps,
  principal: Principal,
): Promise<z.input<typeof validation>> {
  const withRows = mayDo(principal, 'operator');
  const results = await sessions.use((client) => validationResults<TableResult>(client, record.id));
  const { id, state, ok, score, error, startedAt, finishedAt } = record;
  const report = (record.report ?? {}) as Partial<Pick<ValidationReport, 'references' | 'rules' | 'leftOut'>>;
  return {
    ...{ id, state, ok, score, error, started_at: startedAt, finished_at: finishedAt },
    tables: results.map(({ result }) => shownTable(withRows ? result : { ...result, differences: [] })),
    references: (report.references ?? []).map((one) => ({
      ...one,
      orphans: withRows ? [...one.orphans] : [],
    })) as z.input<typeof references>,
    rules: (report.rules ?? []).map(({ error: refused = null, ...one }) => ({
      ...one,
      rows: withRows ? one.rows : [],
      // What a database says may hold a value.
      error: withRows || refused === null ? refused : 'it cannot be asked; an operator sees why',
    })) as z.input<typeof rules>,
    left_out: (report.leftOut ?? []) as z.input<typeof leftOut>,
  };
}
