import { z } from 'zod';
import { createMetrics, type Metrics } from '../../metrics/metrics.ts';
import { Stored } from '../../metrics/stored.ts';
import { listAlerts } from '../../postgres/alerts.ts';
import { listInstances } from '../../postgres/instances.ts';
import { runStatistics } from '../../postgres/run-statistics.ts';
import { listRuns } from '../../postgres/runs.ts';
import { cached } from '../cached.ts';
import { type Deps, defineRoute } from '../route.ts';
import { alertSchema, countsSchema, shownAlerts } from '../schemas/alerts.ts';
import { runSchema, shownRun } from '../schemas/runs.ts';
import { snaked } from '../snake.ts';
import { syncStatus, syncStatusSchema } from '../sync-status.ts';
import { statisticsSchema } from './statistics.ts';

const DASHBOARD_TTL_MS = 2000;
const DAY_MS = 86_400_000;
const RUNS_SHOWN = 20;
const ALERTS_SHOWN = 100;

/** The open ones, the gravest first. */
const openAlerts = cached(DASHBOARD_TTL_MS, async ({ config, sessions }: Deps) =>
  shownAlerts(await sessions.use((client) => listAlerts(client, config.source.slot, { limit: ALERTS_SHOWN }))),
);

const health = defineRoute({
  method: 'GET',
  url: '/monitoring/health',
  role: 'viewer',
  summary: 'Whether anything is stuck, failing or stopped, with reasons',
  reply: z.object({
    status: z.enum(['healthy', 'degraded', 'unhealthy']),
    ready: z.boolean(),
    reasons: z.array(z.string()),
  }),
  run: async (_request, deps) => {
    const { stuck, ready, state, source, sinks } = deps.pipeline.status();
    const reasons = [...stuck];
    if (!ready) reasons.push(`the pipeline is ${state}`);
    if (source?.connected === false) reasons.push('not connected to PostgreSQL');
    for (const { name, lastError, stopped } of sinks) {
      if (lastError !== null) reasons.push(`sink "${name}": ${lastError}`);
      for (const table of stopped) reasons.push(`sink "${name}": table ${table.name} is stopped: ${table.reason}`);
    }
    // Health can be told without PostgreSQL; that it cannot be asked shows otherwise.
    const { alerts } = await openAlerts(deps).catch(() => ({ alerts: [] }));
    for (const { state: of, severity, rule, summary } of alerts)
      if (of === 'firing' && severity !== 'info') reasons.push(`alert ${rule} (${severity}): ${summary}`);
    const status = stuck.length > 0 ? 'unhealthy' : reasons.length > 0 ? 'degraded' : 'healthy';
    return { status, ready, reasons } as const;
  },
});

/** Two scrapes of one process share nothing but the status, so one registry per process will do. */
const registries = new WeakMap<Deps, Metrics>();

function metricsOf({ pipeline, sessions, config }: Deps): Metrics {
  const stored = new Stored(sessions, config);
  return createMetrics({
    status: () => pipeline.status(),
    stored: () => stored.read(),
    tablesMax: config.metrics.tablesMax,
  });
}

const prometheus = defineRoute({
  method: 'GET',
  url: '/monitoring/metrics/prometheus',
  role: 'viewer',
  summary: 'Metrics for Prometheus; as /metrics of metrics.port',
  produces: 'text/plain; version=0.0.4; charset=utf-8',
  reply: z.string(),
  run: (_request, deps) => {
    const metrics = registries.get(deps) ?? metricsOf(deps);
    registries.set(deps, metrics);
    return metrics.read();
  },
});

const stored = cached(DASHBOARD_TTL_MS, ({ sessions }: Deps) =>
  sessions.use(async (client) => ({
    runs: (await listRuns(client, { limit: RUNS_SHOWN })).map(shownRun),
    statistics: snaked(await runStatistics(client, new Date(Date.now() - DAY_MS))),
    instances: (await listInstances(client, false)).length,
  })),
);

const dashboard = defineRoute({
  method: 'GET',
  url: '/monitoring/dashboard',
  role: 'viewer',
  summary: 'What a dashboard shows, in one answer: status, last runs, statistics of a day, open alerts',
  reply: z.object({
    status: syncStatusSchema,
    runs: z.array(runSchema),
    statistics: z.array(statisticsSchema),
    instances: z.number().int().describe('processes that live'),
    alerts: z.array(alertSchema).describe('those that are open'),
    alert_counts: countsSchema,
  }),
  run: async (_request, deps) => {
    const { alerts, counts } = await openAlerts(deps);
    return { status: await syncStatus(deps), ...(await stored(deps)), alerts, alert_counts: counts };
  },
});

export const monitoringRoutes = [health, prometheus, dashboard];
