import { z } from 'zod';
import { WaltideError } from '../../errors.ts';
import { snapshotTables, startSchedule } from '../long-work.ts';
import { Accepted, defineRoute } from '../route.ts';
import { startedRun } from '../schemas/common.ts';
import { syncStatus, syncStatusSchema } from '../sync-status.ts';

/* The paths of the voice platform. */

const started = startedRun.extend({ snapshots: z.array(z.string()).optional() });

const start = defineRoute({
  method: 'POST',
  url: '/admin/sync',
  root: true,
  role: 'operator',
  summary: 'Start a sync by its type',
  description:
    'The name of a schedule does its work now; `full` reads every table again, `snapshot:schema.table` one of them. Left out, it is `full`.',
  query: { sync_type: z.string().min(1).max(200).default('full') },
  reply: started,
  accepted: started,
  audited: ({ query: { sync_type } }) => ({ sync_type }),
  run: async ({ query: { sync_type: syncType } }, deps) => {
    if (deps.config.schedules.some(({ name }) => name === syncType))
      return new Accepted(await startSchedule(deps, syncType));
    const [kind, table] = [syncType.split(':', 1)[0], syncType.slice(syncType.indexOf(':') + 1)];
    if (syncType === 'full') return new Accepted(await snapshotTables(deps, { patterns: ['*.*'], sinks: null }));
    if (kind === 'snapshot' && table !== syncType)
      return new Accepted(await snapshotTables(deps, { patterns: [table], sinks: null }));
    throw new WaltideError(
      'NOT_FOUND',
      `there is no sync type "${syncType}"`,
      'Use the name of a schedule (GET schedules), full or snapshot:schema.table.',
    );
  },
});

const status = defineRoute({
  method: 'GET',
  url: '/admin/sync/status',
  root: true,
  role: 'viewer',
  summary: 'As sync/status',
  reply: syncStatusSchema,
  run: (_request, deps) => syncStatus(deps),
});

export const adminRoutes = [start, status];
