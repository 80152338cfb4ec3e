import { createHmac } from 'node:crypto';
import type { Severity } from '../../config/schema.ts';
import type { AlertDraft } from '../../postgres/alerts.ts';
import type { Step } from './step.ts';

/** What the generic format posts: documented in docs/alerts.md, where fields may be added and none changes. */
export interface Notification {
  readonly type: `alert.${NonNullable<Step['event']>}`;
  /** When it happened. */
  readonly timestamp: string;
  readonly data: {
    readonly id: number;
    readonly slot: string;
    readonly rule: string;
    readonly subject: string;
    readonly state: 'firing' | 'acknowledged' | 'resolved';
    readonly severity: Severity;
    /** Of `alert.changed`; else null. */
    readonly previous_severity: Severity | null;
    readonly summary: string;
    readonly value: number | null;
    readonly threshold: number | null;
    readonly opened_at: string;
    readonly resolved_at: string | null;
    readonly instance: string;
  };
}

export function notificationOf(of: {
  readonly slot: string;
  readonly id: number;
  readonly event: NonNullable<Step['event']>;
  readonly alert: AlertDraft;
  readonly previous: Severity | null;
  readonly at: Date;
  readonly by: string;
}): Notification {
  const { slot, id, event, alert, previous, at, by } = of;
  const { rule, subject, severity, summary, value, threshold, openedAt, resolvedAt } = alert;
  return {
    type: `alert.${event}`,
    timestamp: at.toISOString(),
    data: {
      ...{ id, slot, rule, subject, state: alert.state as Notification['data']['state'], severity },
      previous_severity: event === 'changed' ? previous : null,
      ...{ summary, value, threshold },
      opened_at: (openedAt ?? at).toISOString(),
      resolved_at: resolvedAt?.toISOString() ?? null,
      instance: by,
    },
  };
}

const ICONS: Readonly<Record<Severity, string>> = {
  info: ':information_source:',
  warning: ':warning:',
  critical: ':rotating_light:',
};
/** Slack takes 3,000 in a section. */
const SUMMARY_LENGTH_MAX = 2500;

/** As Slack's incoming webhooks take it; what is only compatible with them shows `text`. */
export function slackMessage({ type, data }: Notification): object {
  const { id, slot, rule, subject, severity, previous_severity: previous, summary, opened_at: openedAt } = data;
  const what = {
    'alert.opened': `${severity}: ${rule}`,
    'alert.changed': `${previous} → ${severity}: ${rule}`,
    'alert.resolved': `resolved: ${rule}`,
  }[type];
  const icon = type === 'alert.resolved' ? ':white_check_mark:' : ICONS[severity];
  const short = summary.length > SUMMARY_LENGTH_MAX ? `${summary.slice(0, SUMMARY_LENGTH_MAX)}…` : summary;
  const title = `${icon} *${escaped(what)}* · ${escaped(subject)}`;
  const context = `slot ${slot} · alert ${id} · since ${openedAt}`;
  return {
    text: `${title}\n${escaped(short)}\n${escaped(context)}`,
    blocks: [
      { type: 'section', text: { type: 'mrkdwn', text: `${title}\n${escaped(short)}` } },
      { type: 'context', elements: [{ type: 'mrkdwn', text: escaped(context) }] },
    ],
  };
}

/** As Slack asks for it: nothing in a name may become a link or a mention. */
function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

/** Headers of https://www.standardwebhooks.com: the id stays the same over all attempts; signed where there is a key. */
export function signedHeaders(id: string, body: string, key: Buffer | null, nowMs: number): Record<string, string> {
  const timestamp = String(Math.floor(nowMs / 1000));
  const headers = { 'webhook-id': id, 'webhook-timestamp': timestamp };
  if (key === null) return headers;
  const signature = createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64');
  return { ...headers, 'webhook-signature': `v1,${signature}` };
}
