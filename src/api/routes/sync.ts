import { z } from 'zod';
import { WaltideError } from '../../errors.ts';
import { listRuns } from '../../postgres/runs.ts';
import { replayTable, snapshotTables } from '../long-work.ts';
import { Accepted, defineRoute } from '../route.ts';
import { limit, sinkName, startedReplay, startedSnapshots, table } from '../schemas/common.ts';
import { runSchema, shownRun } from '../schemas/runs.ts';
import { syncStatus, syncStatusSchema } from '../sync-status.ts';

const status = defineRoute({
  method: 'GET',
  url: '/sync/status',
  role: 'viewer',
  summary: 'How everything stands: the pipeline, its sinks, every sync type',
  reply: syncStatusSchema,
  run: (_request, deps) => syncStatus(deps),
});

const full = defineRoute({
  method: 'POST',
  url: '/sync/table/:t/full',
  role: 'operator',
  summary: 'Read a table again, beside the stream',
  params: { t: table },
  query: {
    batch_size: z.coerce
      .number()
      .int()
      .min(1)
      .max(10_000_000)
      .optional()
      .describe('most rows of a chunk, as snapshot.chunkRows'),
  },
  body: z.strictObject({ sinks: z.array(sinkName).min(1).max(100).optional() }).optional(),
  reply: startedSnapshots,
  accepted: startedSnapshots,
  audited: ({ body }) => ({ sinks: body?.sinks }),
  run: async ({ params, query, body }, deps) =>
    new Accepted(
      await snapshotTables(deps, {
        patterns: [params.t],
        sinks: body?.sinks ?? null,
        chunkRows: query.batch_size ?? null,
      }),
    ),
});

const incremental = defineRoute({
  method: 'POST',
  url: '/sync/table/:t/incremental',
  role: 'operator',
  summary: 'Apply the changes of a table once more, from a time on',
  description:
    'They come from the WAL that is retained (source.retain), or from Kafka; what is gone is refused with the range that is missing.',
  params: { t: table },
  body: z.strictObject({
    since: z.iso.datetime({ offset: true }).describe('ISO 8601, with a zone'),
    sink: sinkName.optional().describe('needed where there are several'),
  }),
  reply: startedReplay,
  accepted: startedReplay,
  audited: ({ body: { since, sink } }) => ({ since, sink }),
  run: async ({ params, body }, deps) =>
    new Accepted(await replayTable(deps, params.t, new Date(body.since), body.sink ?? null)),
});

const runId = z.string().regex(/^\d{1,18}$/, 'is no id of a run');

const runs = defineRoute({
  method: 'GET',
  url: '/history',
  role: 'viewer',
  summary: 'Runs of sync work, newest first',
  query: {
    sync_type: z.string().min(1).max(200).optional().describe('a pattern: * and ?'),
    status: z.enum(['in_progress', 'success', 'error']).optional(),
    instance: z.string().min(1).max(300).optional(),
    since: z.iso.datetime({ offset: true }).optional(),
    before: runId.optional().describe('id of the last run of the page before'),
    limit: limit(1000, 50),
  },
  reply: z.object({ runs: z.array(runSchema) }),
  run: async ({ query: { sync_type: syncType, since, ...filter } }, { sessions }) => {
    const wanted = { ...filter, syncType, since: since === undefined ? undefined : new Date(since) };
    return { runs: (await sessions.use((client) => listRuns(client, wanted))).map(shownRun) };
  },
});

const run = defineRoute({
  method: 'GET',
  url: '/sync/runs/:id',
  role: 'viewer',
  summary: 'One run: how far it is, or how it ended',
  params: { id: runId },
  reply: runSchema,
  run: async ({ params }, { tracker }) => {
    const found = await tracker.get(params.id);
    if (!found) throw noRun(params.id);
    return shownRun(found);
  },
});

const cancel = defineRoute({
  method: 'DELETE',
  url: '/sync/runs/:id',
  role: 'operator',
  summary: 'Ask for the end of a run, in whichever process',
  params: { id: runId },
  reply: z.object({ id: z.string(), cancelling: z.literal(true) }),
  run: async ({ params: { id } }, { tracker }) => {
    if (await tracker.cancel(id)) return { id, cancelling: true as const };
    if (!(await tracker.get(id))) throw noRun(id);
    throw new WaltideError('USAGE', `run ${id} has ended already`, `GET sync/runs/${id} says how.`);
  },
});

function noRun(id: string): WaltideError {
  return new WaltideError('NOT_FOUND', `there is no run ${id}`, 'GET history lists them; old ones are removed.');
}

export const syncRoutes = [status, full, incremental, runs, run, cancel];
