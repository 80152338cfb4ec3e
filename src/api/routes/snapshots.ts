import { z } from 'zod';
import { WaltideError } from '../../errors.ts';
import { listSnapshots, readSnapshot, type SnapshotRecord, wishSnapshot } from '../../postgres/snapshots.ts';
import { requireRole } from '../access.ts';
import { snapshotTables } from '../long-work.ts';
import { Accepted, type Deps, defineRoute } from '../route.ts';
import { sinkName, startedSnapshots } from '../schemas/common.ts';

const record = z.object({
  id: z.string(),
  table: z.string(),
  kind: z.enum(['incremental', 'partial']),
  state: z.enum(['pending', 'running', 'paused', 'cancelling', 'completed', 'cancelled', 'failed']),
  sinks: z.array(z.string()).nullable().describe('null for all'),
  reason: z.string(),
  rows: z.number(),
  bytes: z.number(),
  estimated_rows: z.number(),
  rows_per_second_max: z.number().nullable(),
  error: z.string().nullable(),
  created_at: z.date(),
  started_at: z.date().nullable(),
  updated_at: z.date(),
  finished_at: z.date().nullable(),
});

function shown(one: SnapshotRecord) {
  return {
    id: one.id,
    table: `${one.schema}.${one.table}`,
    ...{ kind: one.kind, state: one.state, sinks: one.sinks, reason: one.reason, rows: one.rows, bytes: one.bytes },
    estimated_rows: one.estimatedRows,
    rows_per_second_max: one.rowsPerSecondMax,
    error: one.error,
    created_at: one.createdAt,
    started_at: one.startedAt,
    updated_at: one.updatedAt,
    finished_at: one.finishedAt,
  };
}

const id = z.string().regex(/^[0-9a-f]{12}$/, 'is no id of a snapshot');

const list = defineRoute({
  method: 'GET',
  url: '/snapshots',
  role: 'viewer',
  summary: 'Snapshots of tables beside the stream, newest first',
  query: { active: z.stringbool().default(false).describe('only those that have not ended') },
  reply: z.object({ snapshots: z.array(record) }),
  run: async ({ query }, { config, sessions }) => ({
    snapshots: (await sessions.use((client) => listSnapshots(client, config.source.slot, query.active))).map(shown),
  }),
});

const start = defineRoute({
  method: 'POST',
  url: '/snapshots',
  role: 'operator',
  summary: 'Read tables again, beside the stream',
  body: z.strictObject({
    tables: z.array(z.string().min(1).max(200)).min(1).max(1000).describe('names, or patterns as in source.tables'),
    sinks: z.array(sinkName).min(1).max(100).nullable().default(null).describe('null for all'),
    where: z
      .string()
      .min(1)
      .max(10_000)
      .nullable()
      .default(null)
      .describe('SQL: refreshes the rows that meet it, in place; needs role admin'),
    rows_per_second_max: z.number().int().min(1).max(2_147_483_647).nullable().default(null),
    batch_size: z
      .number()
      .int()
      .min(1)
      .max(10_000_000)
      .nullable()
      .default(null)
      .describe('most rows of a chunk, as snapshot.chunkRows'),
  }),
  reply: startedSnapshots,
  accepted: startedSnapshots,
  audited: ({ body: { tables, sinks } }) => ({ tables, sinks: sinks ?? undefined }),
  run: async ({ body, principal }, deps) => {
    // It is SQL that the source runs as our role: its errors could tell what nobody has published.
    if (body.where !== null) requireRole(principal, 'admin', 'a condition in SQL');
    return new Accepted(
      await snapshotTables(deps, {
        patterns: body.tables,
        sinks: body.sinks,
        where: body.where,
        rowsPerSecondMax: body.rows_per_second_max,
        chunkRows: body.batch_size,
      }),
    );
  },
});

const get = defineRoute({
  method: 'GET',
  url: '/snapshots/:id',
  role: 'viewer',
  summary: 'One snapshot',
  params: { id },
  reply: record,
  run: async ({ params }, deps) => shown(await find(deps, params.id)),
});

const wish = (word: 'pause' | 'resume', summary: string) =>
  defineRoute({
    method: 'POST',
    url: `/snapshots/:id/${word}`,
    role: 'operator',
    summary,
    params: { id },
    reply: record,
    run: ({ params }, deps) => change(deps, params.id, word),
  });

const cancel = defineRoute({
  method: 'DELETE',
  url: '/snapshots/:id',
  role: 'operator',
  summary: 'End a snapshot; sinks keep the rows that they had before',
  params: { id },
  reply: record,
  run: ({ params }, deps) => change(deps, params.id, 'cancel'),
});

async function change(deps: Deps, asked: string, word: 'pause' | 'resume' | 'cancel') {
  const { state } = await find(deps, asked);
  if (!(await deps.sessions.use((client) => wishSnapshot(client, asked, word))))
    throw new WaltideError('USAGE', `the snapshot is ${state}: it cannot ${word}`, `GET snapshots/${asked} shows it.`);
  return shown(await find(deps, asked));
}

async function find({ config, sessions }: Deps, asked: string): Promise<SnapshotRecord> {
  const found = await sessions.use((client) => readSnapshot(client, asked));
  if (found?.slot === config.source.slot) return found;
  throw new WaltideError('NOT_FOUND', `there is no snapshot ${asked}`, 'GET snapshots lists them.');
}

export const snapshotRoutes = [
  list,
  start,
  get,
  wish('pause', 'Pause a snapshot; the stream and other tables go on'),
  wish('resume', 'Go on with a paused snapshot where it was'),
  cancel,
];
