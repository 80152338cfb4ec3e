import { SEVERITIES, type Severity } from '../../config/schema.ts';
import type { AlertDraft, AlertEvent, AlertRecord } from '../../postgres/alerts.ts';
import type { Finding } from './rule.ts';

export interface StepOptions {
  readonly rule: string;
  /** Of the configuration. */
  readonly severity: Severity;
  readonly forMs: number;
  readonly resolveAfterMs: number;
  readonly now: Date;
}

export interface Step {
  /** What the alert is from now on; null where there is none. */
  readonly draft: AlertDraft | null;
  /** What is to be recorded and told. */
  readonly event: Exclude<AlertEvent, 'acknowledged'> | null;
}

const rank = (severity: Severity): number => SEVERITIES.indexOf(severity);
const passed = (since: Date, ms: number, now: Date): boolean => now.getTime() - since.getTime() >= ms;

/**
 * What one finding makes of an alert: null where there is none yet. What holds opens it after `forMs` without a break; it is
 * resolved, or of a lesser severity, once that has been so for `resolveAfterMs`. It becomes graver at once, also where
 * somebody has acknowledged it: then it fires again. Pure.
 */
export function step(alert: AlertDraft | null, finding: Finding, options: StepOptions): Step {
  if (!finding.active) return alert === null ? { draft: null, event: null } : clear(alert, options);
  const { rule, now, forMs } = options;
  const { subject, value, threshold, summary } = finding;
  const severity = finding.severity ?? options.severity;
  const seen = { value, threshold, summary };
  if (alert === null || alert.state === 'pending') {
    const since = alert?.since ?? now;
    const opens = passed(since, forMs, now);
    const draft: AlertDraft = {
      ...{ rule, subject, severity, ...seen, since },
      state: opens ? 'firing' : 'pending',
      openedAt: opens ? now : null,
      ...{ clearSince: null, acknowledgedAt: null, acknowledgedBy: null, note: null, resolvedAt: null },
    };
    return { draft, event: opens ? 'opened' : null };
  }
  if (rank(severity) > rank(alert.severity)) {
    const again = { state: 'firing' as const, acknowledgedAt: null, acknowledgedBy: null, note: null };
    return { draft: { ...alert, ...seen, ...again, severity, clearSince: null }, event: 'changed' };
  }
  if (severity === alert.severity) return { draft: { ...alert, ...seen, clearSince: null }, event: null };
  const clearSince = alert.clearSince ?? now;
  if (!passed(clearSince, options.resolveAfterMs, now))
    return { draft: { ...alert, ...seen, clearSince }, event: null };
  return { draft: { ...alert, ...seen, severity, clearSince: null }, event: 'changed' };
}

/** The condition is clear. What it was when it held stays, for whoever reads it later. */
function clear(alert: AlertDraft, { now, resolveAfterMs }: StepOptions): Step {
  if (alert.state === 'pending') return { draft: null, event: null };
  const clearSince = alert.clearSince ?? now;
  if (!passed(clearSince, resolveAfterMs, now)) return { draft: { ...alert, clearSince }, event: null };
  return { draft: { ...alert, clearSince, state: 'resolved', resolvedAt: now }, event: 'resolved' };
}

/** Nobody has looked at it for a day: the process that did is gone, or its sink is not configured any more. */
const EXPIRES_MS = 86_400_000;

/** An alert whose subject nobody found: what its rule says of that. Null where it stays as it is. */
export function unseen(
  { subject, value, threshold, summary, observedAt }: AlertRecord,
  rule: 'clear' | 'stays' | 'expires',
  now: Date,
): Finding | null {
  if (rule === 'stays' || (rule === 'expires' && !passed(observedAt, EXPIRES_MS, now))) return null;
  return { subject, active: false, value, threshold, summary };
}
