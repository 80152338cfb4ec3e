import { z } from 'zod';
import { listSchedules, type ScheduleView } from '../../control/schedules.ts';
import { startSchedule } from '../long-work.ts';
import { Accepted, defineRoute } from '../route.ts';
import { startedRun } from '../schemas/common.ts';
import { runSchema, shownRun } from '../schemas/runs.ts';

const schedule = z.object({
  name: z.string(),
  type: z.string(),
  cron: z.string(),
  time_zone: z.string(),
  enabled: z.boolean(),
  last_run: runSchema.nullable(),
  next_at: z.date().nullable().describe('null where it is disabled, or never due again'),
  note: z.string().nullable().describe('why the last occurrence did not become a run'),
});

const list = defineRoute({
  method: 'GET',
  url: '/schedules',
  role: 'viewer',
  summary: 'Schedules, with their last and next run',
  reply: z.object({ schedules: z.array(schedule) }),
  run: async (_request, { config, sessions }) => ({
    schedules: (await sessions.use((client) => listSchedules(client, config))).map(shown),
  }),
});

const start = defineRoute({
  method: 'POST',
  url: '/schedules/:name/run',
  role: 'operator',
  summary: 'Do the work of a schedule now, whatever its cron says',
  params: { name: z.string().min(1).max(200) },
  reply: startedRun,
  accepted: startedRun,
  run: async ({ params }, deps) => new Accepted(await startSchedule(deps, params.name)),
});

function shown({ name, type, cron, timeZone, enabled, lastRun, nextAt, note }: ScheduleView) {
  return {
    ...{ name, type, cron, time_zone: timeZone, enabled, note },
    last_run: lastRun && shownRun(lastRun),
    next_at: nextAt,
  };
}

export const scheduleRoutes = [list, start];
