import { z } from 'zod';
import { listInstances } from '../../postgres/instances.ts';
import { defineRoute } from '../route.ts';
import { snaked } from '../snake.ts';

const instance = z.object({
  id: z.string(),
  slot: z.string(),
  role: z.string(),
  host: z.string(),
  pid: z.number().int(),
  version: z.string(),
  state: z.enum(['alive', 'silent', 'stopped']),
  started_at: z.date(),
  heartbeat_at: z.date(),
  stopped_at: z.date().nullable(),
  running: z.array(z.string()).describe('sync types that it runs now'),
});

const list = defineRoute({
  method: 'GET',
  url: '/instances',
  role: 'viewer',
  summary: 'Processes that do the work, and their heartbeats',
  query: { all: z.stringbool().default(false).describe('also those that have stopped') },
  reply: z.object({ instances: z.array(instance) }),
  run: async ({ query }, { sessions }) => ({
    instances: snaked(await sessions.use((client) => listInstances(client, query.all))),
  }),
});

export const instanceRoutes = [list];
