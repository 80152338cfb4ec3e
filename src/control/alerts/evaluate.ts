import type pg from 'pg';
import { SEVERITIES, type Severity } from '../../config/schema.ts';
import { queueNotifications } from '../../postgres/alert-notifications.ts';
import {
  type AlertDraft,
  type AlertRecord,
  changingAlerts,
  forgetAlert,
  openAlerts,
  recordAlertEvent,
  saveAlert,
} from '../../postgres/alerts.ts';
import { notificationOf } from './notification.ts';
import type { AlertRule, Finding, View } from './rule.ts';
import { ALERT_RULES } from './rules.ts';
import { type Step, step, unseen as unseenFinding } from './step.ts';
import { sentence } from './words.ts';

/** What has happened to an alert. */
export interface News {
  readonly event: NonNullable<Step['event']>;
  readonly alert: AlertDraft;
}

/**
 * Makes of a view what alerts are from now on, with their history and what is to be told, in one transaction under the
 * slot's lock, in which also the view is taken: processes that look at once change each alert once. Resolves with what has
 * happened; rejects, with nothing changed, as `take` and queries do.
 */
export function evaluate(
  client: pg.Client,
  slot: string,
  by: string,
  take: (client: pg.Client) => Promise<View>,
): Promise<readonly News[]> {
  return changingAlerts(client, slot, async (now) => {
    const view = await take(client);
    const known = await openAlerts(client, slot);
    const news: News[] = [];
    for (const rule of ALERT_RULES) {
      for (const { alert, finding } of findingsOf(rule, view, known, now)) {
        // Nobody looks at it: it stays. What another process sees of its part of a sink, this one does not clear.
        if (finding === null || seenElsewhere(rule, view, alert, finding, { at: now, by })) continue;
        const result = step(alert, finding, { rule: rule.name, ...settingsOf(rule, view), now });
        await write(client, view, alert, result, { at: now, by });
        if (result.draft && result.event) news.push({ event: result.event, alert: result.draft });
      }
    }
    return news;
  });
}

/** Every subject that was found, or has an alert. Of what nobody looks at, the finding is null: it stays. */
function findingsOf(rule: AlertRule, view: View, known: readonly AlertRecord[], now: Date) {
  const alerts = new Map(known.filter((alert) => alert.rule === rule.name).map((alert) => [alert.subject, alert]));
  const settings = view.config.alerts.rules[rule.key];
  const pairs: { readonly alert: AlertRecord | null; readonly finding: Finding | null }[] = [];
  // What was turned off is not looked at any more, and its alerts are over.
  for (const finding of settings.enabled ? rule.find(view, settings) : []) {
    const { subject, summary } = finding;
    pairs.push({ alert: alerts.get(subject) ?? null, finding: { ...finding, summary: sentence(summary) } });
    alerts.delete(subject);
  }
  for (const alert of alerts.values())
    pairs.push({ alert, finding: unseenFinding(alert, settings.enabled ? rule.unseen : 'clear', now) });
  return pairs;
}

/** Longer than this, whoever has seen it last is not there any more. */
const ELSEWHERE_MS = 60_000;

function seenElsewhere(
  { unseen }: AlertRule,
  { config }: View,
  alert: AlertRecord | null,
  { active }: Finding,
  { at, by }: { readonly at: Date; readonly by: string },
): boolean {
  if (active || alert === null || unseen !== 'expires' || alert.observedBy === by) return false;
  return at.getTime() - alert.observedAt.getTime() < Math.max(ELSEWHERE_MS, config.alerts.intervalMs * 4);
}

function settingsOf({ key }: AlertRule, { config: { alerts } }: View) {
  const { severity, forMs } = alerts.rules[key];
  return { severity, forMs, resolveAfterMs: alerts.resolveAfterMs };
}

async function write(
  client: pg.Client,
  { config: { source, alerts } }: View,
  alert: AlertRecord | null,
  { draft, event }: Step,
  seen: { readonly at: Date; readonly by: string },
): Promise<void> {
  const { slot } = source;
  if (draft === null) {
    if (alert) await forgetAlert(client, alert.id);
    return;
  }
  const id = await saveAlert(client, slot, alert?.id ?? null, draft, seen);
  if (event === null) return;
  const eventId = await recordAlertEvent(client, id, event, seen.at, { ...draft, note: null }, seen.by);
  // Whoever was told that it was graver is told that it is not any more.
  const severity = graver(draft.severity, event === 'changed' ? alert!.severity : draft.severity);
  const told = alerts.webhooks.filter(({ minSeverity }) => graver(severity, minSeverity) === severity);
  if (told.length === 0) return;
  const payload = notificationOf({ slot, id, event, alert: draft, previous: alert?.severity ?? null, ...seen });
  const names = told.map(({ name }) => name);
  await queueNotifications(client, slot, { alertId: id, eventId }, names, payload);
}

function graver(a: Severity, b: Severity): Severity {
  return SEVERITIES.indexOf(a) >= SEVERITIES.indexOf(b) ? a : b;
}
