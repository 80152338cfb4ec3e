import type { Route } from './route.ts';
import { adminRoutes } from './routes/admin.ts';
import { alertRoutes } from './routes/alerts.ts';
import { apiKeyRoutes } from './routes/api-keys.ts';
import { auditLogRoutes } from './routes/audit-log.ts';
import { cdcRoutes } from './routes/cdc.ts';
import { consistencyRoutes } from './routes/consistency.ts';
import { deadLetterRoutes } from './routes/dead-letters.ts';
import { documentRoutes } from './routes/documents.ts';
import { eventRoutes } from './routes/events.ts';
import { instanceRoutes } from './routes/instances.ts';
import { monitoringRoutes } from './routes/monitoring.ts';
import { operationRoutes } from './routes/operations.ts';
import { scheduleRoutes } from './routes/schedules.ts';
import { schemaHistoryRoutes } from './routes/schema-history.ts';
import { sinkRoutes } from './routes/sinks.ts';
import { slotRoutes } from './routes/slots.ts';
import { snapshotRoutes } from './routes/snapshots.ts';
import { statisticsRoutes } from './routes/statistics.ts';
import { storeRoutes } from './routes/stores.ts';
import { syncRoutes } from './routes/sync.ts';
import { waitRoutes } from './routes/wait.ts';

/* Every route there is: a new noun is one file in `routes/` and one line here. */

const nouns: readonly Route[] = [
  ...syncRoutes,
  ...operationRoutes,
  ...waitRoutes,
  ...consistencyRoutes,
  ...cdcRoutes,
  ...sinkRoutes,
  ...storeRoutes,
  ...deadLetterRoutes,
  ...snapshotRoutes,
  ...scheduleRoutes,
  ...eventRoutes,
  ...monitoringRoutes,
  ...alertRoutes,
  ...statisticsRoutes,
  ...instanceRoutes,
  ...slotRoutes,
  ...schemaHistoryRoutes,
  ...auditLogRoutes,
  ...apiKeyRoutes,
  ...adminRoutes,
];

export const ROUTES: readonly Route[] = [...nouns, ...documentRoutes(nouns)];
