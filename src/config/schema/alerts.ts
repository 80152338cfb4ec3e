import { z } from 'zod';
import { about, ms, name, path, secret } from './common.ts';

export const SEVERITIES = ['info', 'warning', 'critical'] as const;

const severity = z.enum(SEVERITIES);

/** What every rule has. `forMs` keeps off what passes by itself; where what is counted has waited already, it is 0. */
const rule = (usual: (typeof SEVERITIES)[number], forMs: number) => ({
  enabled: z.boolean().default(true).meta(about('False: the rule is not looked at.')),
  severity: severity.default(usual).meta(about('How grave it is.')),
  forMs: z
    .number()
    .int()
    .nonnegative()
    .default(forMs)
    .meta(about('How long it must hold before the alert opens; 0 opens it at once.')),
});

const rules = z.strictObject({
  sinkLag: z
    .strictObject({
      ...rule('warning', 60_000),
      /** A report of a quarter of an hour ago is noticed; most pauses for maintenance are not. */
      minutesMax: z.number().positive().default(15).meta(about('Age of the oldest commit that a sink may lack.')),
    })
    .prefault({})
    .meta(about('A sink is behind the source.')),
  consistencyScore: z
    .strictObject({
      ...rule('critical', 0),
      scoreMin: z.number().min(0).max(100).default(90).meta(about('Least share of equal rows, in percent.')),
    })
    .prefault({})
    .meta(about('The last validation of a table found too many rows that differ.')),
  deadLetters: z
    .strictObject({
      ...rule('warning', 0),
      openMax: z.number().int().nonnegative().default(100).meta(about('Most open dead letters of a sink.')),
    })
    .prefault({})
    .meta(about('A sink has refused many changes.')),
  slotAtRisk: z
    .strictObject({
      ...rule('warning', 0),
      level: z
        .enum(['warning', 'critical'])
        .default('warning')
        .meta(about('Level of the WAL budget from which it alerts; at critical, and lost, it is always critical.')),
    })
    .prefault({})
    .meta(about('The source will soon not keep the WAL that the slot needs, or has lost the slot.')),
  syncFailed: z
    .strictObject(rule('warning', 0))
    .prefault({})
    .meta(about('The last run of a sync type ended in an error.')),
  /** tracking.heartbeatTimeoutMs has passed already. */
  instanceGone: z
    .strictObject(rule('critical', 0))
    .prefault({})
    .meta(about('A process gave no sign of life any more, without having stopped.')),
  sinkBreaker: z
    .strictObject(rule('warning', 60_000))
    .prefault({})
    .meta(about('A sink fails again and again, and is left alone for a while.')),
  tableStopped: z.strictObject(rule('warning', 0)).prefault({}).meta(about('A sink no longer follows a table.')),
  /** A failover, a restart of the sink's server, waiting for a slot: each is over by then. */
  pipelineStalled: z
    .strictObject(rule('critical', 300_000))
    .prefault({})
    .meta(about('A pipeline has failed for good, is stuck, or does not come up.')),
});

const webhook = z.strictObject({
  name: name.meta(about('Unique; what is still to be told after a restart is known by it.')),
  format: z
    .enum(['generic', 'slack'])
    .default('generic')
    .meta(about('generic: the JSON of docs/alerts.md. slack: what Slack, and what is compatible with it, shows.')),
  url: z
    .string()
    .regex(/^https?:\/\/[^\s/]+/, 'must begin with https:// or http://')
    .optional()
    .meta(secret('Where it is posted to. Whoever knows the URL of a Slack webhook can post there.')),
  urlFile: z.string().min(1).optional().meta(path('The same, in a file: of a Docker or Kubernetes secret, say.')),
  /** As the signing of webhooks by https://www.standardwebhooks.com asks for. */
  secret: z
    .string()
    .min(24)
    .optional()
    .meta(secret('Key of the HMAC-SHA-256 signature, at least 24 characters; base64 where it begins with whsec_.')),
  secretFile: z.string().min(1).optional().meta(path('The same, in a file.')),
  minSeverity: severity.default('info').meta(about('Only alerts at least so grave.')),
  /** Slack answers in less than one. */
  timeoutMs: ms.max(120_000).default(10_000).meta(about('How long one attempt may take.')),
});

const retry = z.strictObject({
  /** With the waits below, more than an hour. */
  attemptsMax: z.number().int().min(1).max(1000).default(20).meta(about('Attempts for one notification.')),
  firstMs: ms.default(1000).meta(about('Longest wait before the second attempt; it doubles from one to the next.')),
  maxMs: ms
    .default(300_000)
    .meta(about('Longest wait between two attempts. Each is cut by chance, to between half and all.')),
});

export const alerts = z.strictObject({
  enabled: z.boolean().default(true).meta(about('Look at the rules while a pipeline runs.')),
  /** A few small queries; sooner than this nobody acts. */
  intervalMs: ms.default(15_000).meta(about('How often the rules are looked at.')),
  resolveAfterMs: z
    .number()
    .int()
    .nonnegative()
    .default(60_000)
    .meta(about('How long a condition must be clear, or less severe, before its alert is.')),
  rules: rules.prefault({}).meta(about('What opens an alert.')),
  webhooks: z.array(webhook).default([]).meta(about('Who is told when an alert opens, changes or is resolved.')),
  retry: retry.prefault({}).meta(about('How a notification is tried again.')),
});
