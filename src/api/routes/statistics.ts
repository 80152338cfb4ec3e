import { z } from 'zod';
import { runStatistics } from '../../postgres/run-statistics.ts';
import { defineRoute } from '../route.ts';
import { snaked } from '../snake.ts';

const HOUR_MS = 3_600_000;

export const statisticsSchema = z.object({
  sync_type: z.string(),
  runs: z.number().int(),
  in_progress: z.number().int(),
  successes: z.number().int(),
  errors: z.number().int(),
  cancelled: z.number().int(),
  success_rate: z.number().nullable().describe('in percent'),
  duration_seconds_average: z.number().nullable(),
  duration_seconds_p95: z.number().nullable(),
  records: z.number(),
  records_per_second: z.number().nullable(),
  error_classes: z.record(z.string(), z.number().int()),
  last_at: z.date(),
  last_status: z.enum(['in_progress', 'success', 'error']),
});

const statistics = defineRoute({
  method: 'GET',
  url: '/statistics',
  role: 'viewer',
  summary: 'Success rate, duration and throughput of the runs of each sync type',
  query: {
    hours: z.coerce
      .number()
      .min(0.1)
      .max(24 * 3660)
      .default(24)
      .describe('how far back'),
  },
  reply: z.object({ since: z.date(), sync_types: z.array(statisticsSchema) }),
  run: async ({ query }, { sessions }) => {
    const since = new Date(Date.now() - query.hours * HOUR_MS);
    return { since, sync_types: snaked(await sessions.use((client) => runStatistics(client, since))) };
  },
});

export const statisticsRoutes = [statistics];
