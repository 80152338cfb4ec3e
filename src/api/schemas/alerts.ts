import { z } from 'zod';
import { SEVERITIES } from '../../config/schema.ts';
import { ALERT_STATES, type AlertRecord } from '../../postgres/alerts.ts';

export const alertSchema = z.object({
  id: z.number().int(),
  rule: z.string(),
  subject: z.string().describe('whom it is about: a sink, the slot, a sync type, a process'),
  state: z.enum(ALERT_STATES).describe('pending: it holds, but not yet for as long as the rule asks'),
  severity: z.enum(SEVERITIES),
  summary: z.string(),
  value: z.number().nullable(),
  threshold: z.number().nullable(),
  since: z.date().describe('since when the condition holds'),
  opened_at: z.date().nullable(),
  acknowledged_at: z.date().nullable(),
  acknowledged_by: z.string().nullable(),
  note: z.string().nullable(),
  resolved_at: z.date().nullable(),
  observed_at: z.date().describe('when a process last looked at it'),
  observed_by: z.string(),
});

export const countsSchema = z
  .object({
    firing: z.number().int(),
    acknowledged: z.number().int(),
    critical: z.number().int(),
    warning: z.number().int(),
    info: z.number().int(),
  })
  .describe('of those in this answer: by state, and the open ones by severity');

export function shownAlerts(records: readonly AlertRecord[]) {
  const open = records.filter(({ state }) => state === 'firing' || state === 'acknowledged');
  const count = (of: (one: AlertRecord) => boolean): number => open.filter(of).length;
  return {
    alerts: records.map(shown),
    counts: {
      firing: count(({ state }) => state === 'firing'),
      acknowledged: count(({ state }) => state === 'acknowledged'),
      critical: count(({ severity }) => severity === 'critical'),
      warning: count(({ severity }) => severity === 'warning'),
      info: count(({ severity }) => severity === 'info'),
    },
  };
}

function shown(of: AlertRecord) {
  return {
    ...{ id: of.id, rule: of.rule, subject: of.subject, state: of.state, severity: of.severity, summary: of.summary },
    ...{ value: of.value, threshold: of.threshold, since: of.since, opened_at: of.openedAt },
    ...{ acknowledged_at: of.acknowledgedAt, acknowledged_by: of.acknowledgedBy, note: of.note },
    ...{ resolved_at: of.resolvedAt, observed_at: of.observedAt, observed_by: of.observedBy },
  };
}
