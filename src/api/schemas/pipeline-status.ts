import { z } from 'zod';
import { BUDGET_LEVELS, type PipelineStatus } from '../../pipeline/status.ts';

/* The picture of a running pipeline. `satisfies` keeps it complete: a field of status.ts that is missing here does not compile. */

const count = z.number().int();
const bytes = z.number().int().describe('bytes');
const lsn = z.string().describe('an LSN, such as 16/B374D848');

const budget = z.object({
  level: z.enum(BUDGET_LEVELS),
  walStatus: z.string().nullable(),
  invalidation: z.string().nullable(),
  retainedBytes: bytes,
  budgetBytes: bytes.nullable(),
  safeBytes: bytes.nullable(),
  walBytesPerSecond: z.number(),
  secondsLeft: z.number().nullable(),
});

const protocol = z.object({
  version: count,
  streaming: z.enum(['off', 'on', 'parallel']),
  twoPhase: z.boolean(),
  openTransactions: count,
  memoryBytes: bytes,
  spilledBytes: bytes,
  degraded: z.string().nullable(),
});

const histogram = z.object({ bounds: z.array(z.number()), counts: z.array(count), sum: z.number() });

const stage = z.object({ lsn, lagBytes: bytes, lagSeconds: z.number().nullable() });

const letters = z.object({
  open: count,
  retrying: count,
  oldestAt: z.string().nullable(),
  tables: z.array(z.object({ name: z.string(), open: count })),
});

const source = z.object({
  slot: z.string(),
  publication: z.string(),
  systemIdentifier: z.string(),
  database: z.string(),
  connected: z.boolean(),
  serverLsn: lsn,
  acknowledgedLsn: lsn,
  durableLsn: lsn,
  lagBytes: bytes,
  heldBytes: bytes,
  budget: budget.nullable(),
  events: count,
  eventsPerSecond: z.number(),
  bytes,
  batches: count,
  sizes: z.object({ rows: histogram, bytes: histogram }),
  captured: stage.describe('read from the slot'),
  published: stage.describe('durable downstream'),
  reconnects: count,
  decoding: z
    .object({ lsn, until: lsn })
    .nullable()
    .describe('retained WAL that the server decodes once more before it sends anything'),
  protocol: protocol.nullable(),
  lastMessageAt: z.string().nullable(),
});

const sink = z.object({
  name: z.string(),
  type: z.string(),
  appliedLsn: lsn,
  lagBytes: bytes,
  lagSeconds: z.number().nullable(),
  delivered: stage.describe('taken over by the sink'),
  roundTripSeconds: z.number().nullable().describe('of the last heartbeat, from its commit until it was applied'),
  events: count,
  eventsPerSecond: z.number(),
  batches: count,
  sizes: z.object({ rows: histogram, bytes: histogram, seconds: histogram, delaySeconds: histogram }),
  retries: count,
  splits: count,
  pendingEvents: count,
  pendingBytes: bytes,
  lastError: z.string().nullable(),
  tables: z.array(
    z.object({
      name: z.string(),
      events: count,
      lagBytes: bytes.nullable(),
      lagSeconds: z.number().nullable(),
      lastCommitAt: z.string().nullable(),
    }),
  ),
  stopped: z.array(z.object({ name: z.string(), reason: z.string() })),
  losses: z.object({ textColumns: z.array(z.string()), deadLetters: count, nulled: count }).nullable(),
  breaker: z.enum(['closed', 'open', 'half-open']),
  breakerOpened: count,
  deadLetters: letters,
});

const copy = z.object({
  table: z.string(),
  kind: z.enum(['initial', 'incremental', 'partial']),
  state: z.enum(['running', 'paused', 'completed', 'cancelled', 'failed']),
  rows: count,
  bytes,
  estimatedRows: z.number(),
  done: z.boolean(),
  secondsLeft: z.number().nullable(),
});

export const pipelineStatusSchema = z.object({
  version: z.string(),
  pid: count,
  role: z.enum(['all', 'capture', 'apply']),
  state: z.enum(['starting', 'copying', 'streaming', 'resting', 'failed', 'stopping', 'stopped']),
  startedAt: z.string(),
  source: source.nullable(),
  transport: z.object({ type: z.enum(['in-process', 'kafka']), bytesInFlight: bytes, deadLetters: letters }),
  sinks: z.array(sink),
  copy: z.array(copy),
  memory: z.object({ rssBytes: bytes, heapBytes: bytes }),
  stuck: z.array(z.string()).describe('stages that have work and make no progress'),
  failure: z.string().nullable().describe('why it stands still until a person acts'),
  ready: z.boolean(),
}) satisfies z.ZodType<PipelineStatus>;
