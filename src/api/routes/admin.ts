import { z } from 'zod';
import { WaltideError } from '../../errors.ts';
import { snapshotTables } from '../long-work.ts';
import { Accepted, defineRoute } from '../route.ts';
import { startedSnapshots } from '../schemas/common.ts';
import { syncStatus, syncStatusSchema } from '../sync-status.ts';

/* The paths of the voice platform. */

const start = defineRoute({
  method: 'POST',
  url: '/admin/sync',
  root: true,
  role: 'operator',
  summary: 'Start a sync by its type',
  description: '`full` reads every table again, `snapshot:schema.table` one of them.',
  query: { sync_type: z.string().min(1).max(200).default('full') },
  reply: startedSnapshots,
  accepted: startedSnapshots,
  run: async ({ query: { sync_type: syncType } }, deps) => {
    const [kind, table] = [syncType.split(':', 1)[0], syncType.slice(syncType.indexOf(':') + 1)];
    if (syncType === 'full') return new Accepted(await snapshotTables(deps, { patterns: ['*.*'], sinks: null }));
    if (kind === 'snapshot' && table !== syncType)
      return new Accepted(await snapshotTables(deps, { patterns: [table], sinks: null }));
    throw new WaltideError('NOT_FOUND', `there is no sync type "${syncType}"`, 'Use full or snapshot:schema.table.');
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
