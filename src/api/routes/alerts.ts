import { z } from 'zod';
import { SEVERITIES } from '../../config/schema.ts';
import { ALERT_RULES } from '../../control/alerts/rules.ts';
import { listNotifications } from '../../postgres/alert-notifications.ts';
import { ALERT_STATES, acknowledgeAlert, alertHistory, listAlerts, readAlert } from '../../postgres/alerts.ts';
import { defineRoute } from '../route.ts';
import { alertSchema, countsSchema, shownAlerts } from '../schemas/alerts.ts';
import { limit } from '../schemas/common.ts';
import { snaked } from '../snake.ts';

const LIMIT_MAX = 1000;

const id = z
  .string()
  .regex(/^[1-9]\d{0,14}$/, 'must be the id of an alert')
  .transform(Number);
const rule = z.enum(ALERT_RULES.map(({ name }) => name)).optional();
const severity = z.enum(SEVERITIES);

const event = z.object({
  id: z.number().int(),
  alert_id: z.number().int(),
  rule: z.string(),
  subject: z.string(),
  at: z.date(),
  event: z.enum(['opened', 'changed', 'acknowledged', 'resolved']).describe('changed: of another severity'),
  severity,
  summary: z.string(),
  value: z.number().nullable(),
  by: z.string().describe('an instance, or whoever acknowledged it'),
  note: z.string().nullable(),
});

const notification = z.object({
  webhook: z.string(),
  event: z.string(),
  state: z.enum(['pending', 'sent', 'failed']),
  attempts: z.number().int(),
  last_error: z.string().nullable(),
  created_at: z.date(),
  sent_at: z.date().nullable(),
});

const list = defineRoute({
  method: 'GET',
  url: '/monitoring/alerts',
  role: 'viewer',
  summary: 'What somebody should know of: open alerts, the gravest first',
  query: {
    state: z.enum(ALERT_STATES).optional().describe('default: firing and acknowledged'),
    severity: severity.optional(),
    rule,
    limit: limit(LIMIT_MAX, 100),
  },
  reply: z.object({ alerts: z.array(alertSchema), counts: countsSchema }),
  run: ({ query: { state, ...rest } }, { config, sessions }) =>
    sessions.use(async (client) => {
      const filter = { ...rest, ...(state && { states: [state] }) };
      return shownAlerts(await listAlerts(client, config.source.slot, filter));
    }),
});

const history = defineRoute({
  method: 'GET',
  url: '/monitoring/alerts/history',
  role: 'viewer',
  summary: 'What became of alerts, newest first: opened, changed, acknowledged, resolved',
  query: {
    limit: limit(LIMIT_MAX, 100),
    before: z.coerce.number().int().min(1).optional().describe('id of the last event of the page before'),
  },
  reply: z.object({ events: z.array(event) }),
  run: async ({ query: { before = null, limit: max } }, { config, sessions }) => {
    const { slot } = config.source;
    const events = await sessions.use((client) => alertHistory(client, slot, { alert: null, before, limit: max }));
    return { events: snaked(events) };
  },
});

const show = defineRoute({
  method: 'GET',
  url: '/monitoring/alerts/:id',
  role: 'viewer',
  summary: 'One alert with its history, and who was told',
  params: { id },
  reply: z.object({ alert: alertSchema, events: z.array(event), notifications: z.array(notification) }),
  run: ({ params }, { config, sessions }) =>
    sessions.use(async (client) => {
      const { slot } = config.source;
      const { alerts } = shownAlerts([await readAlert(client, slot, params.id)]);
      const events = await alertHistory(client, slot, { alert: params.id, before: null, limit: LIMIT_MAX });
      return {
        alert: alerts[0]!,
        events: snaked(events),
        notifications: snaked(await listNotifications(client, params.id)),
      };
    }),
});

const acknowledge = defineRoute({
  method: 'POST',
  url: '/monitoring/alerts/:id/acknowledge',
  role: 'operator',
  summary: 'Somebody takes care of it: it stays until its condition is clear',
  params: { id },
  body: z.strictObject({ note: z.string().min(1).max(1000).optional() }).optional(),
  reply: alertSchema,
  audited: ({ body }) => ({ ...body }),
  run: async ({ params, body, principal }, { config, sessions }) => {
    const note = body?.note ?? null;
    const alert = await sessions.use((client) =>
      acknowledgeAlert(client, config.source.slot, params.id, principal.name, note),
    );
    return shownAlerts([alert]).alerts[0]!;
  },
});

export const alertRoutes = [list, history, show, acknowledge];
