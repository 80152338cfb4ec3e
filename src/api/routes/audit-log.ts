import { z } from 'zod';
import { listAudit } from '../../postgres/audit-log.ts';
import { defineRoute } from '../route.ts';
import { limit } from '../schemas/common.ts';
import { snaked } from '../snake.ts';

const outcome = z.enum(['in_progress', 'success', 'accepted', 'refused', 'error']);

const record = z.object({
  id: z.number().int(),
  at: z.date(),
  request_id: z.string(),
  principal: z.string(),
  role: z.string(),
  address: z.string().nullable(),
  method: z.string(),
  route: z.string(),
  target: z.unknown().describe('parameters of path and query'),
  outcome,
  status: z.number().int().nullable(),
  error_code: z.string().nullable(),
  duration_ms: z.number().nullable(),
});

const list = defineRoute({
  method: 'GET',
  url: '/audit-log',
  role: 'admin',
  summary: 'Who changed what, when, with what outcome; newest first',
  query: {
    limit: limit(1000, 100),
    before: z.coerce.number().int().min(1).optional().describe('id of the last record of the page before'),
    principal: z.string().max(300).optional(),
    outcome: outcome.optional(),
  },
  reply: z.object({ records: z.array(record) }),
  run: async ({ query }, { sessions }) => {
    const filter = {
      principal: query.principal ?? null,
      outcome: query.outcome ?? null,
      before: query.before ?? null,
      limit: query.limit,
    };
    return { records: snaked(await sessions.use((client) => listAudit(client, filter))) };
  },
});

export const auditLogRoutes = [list];
