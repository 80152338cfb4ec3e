import { z } from 'zod';
import { WaltideError } from '../../errors.ts';
import { formatLsn } from '../../event/lsn.ts';
import { RECENT_MAX, type SeenEvent } from '../../pipeline/recent-events.ts';
import { requireRole } from '../access.ts';
import { type Deps, defineRoute, type Principal, type ServerEvent } from '../route.ts';

/** Streams that are open at once: each costs a connection and a picture of the status now and then. */
const STREAMS_MAX = 100;
/** Of one stream, not sent yet: a client that does not read loses the oldest. */
const QUEUED_MAX = 1000;

const row = z.record(z.string(), z.unknown()).nullable();
const event = z.object({
  number: z.number().int().describe('counts the changes since the process started; a gap is what was not kept'),
  op: z.enum(['c', 'u', 'd', 'r', 't', 'm']).describe("Debezium's letters: insert, update, delete, read, truncate"),
  table: z.string(),
  lsn: z.string().describe('of the commit'),
  seq: z.number().int().describe('number of the change in its transaction'),
  committed_at: z.date(),
  before: row.optional().describe('with values=true'),
  after: row.optional().describe('with values=true'),
  truncated: z.boolean().optional().describe('the rows were too long to be kept'),
});

const table = z.string().min(3).max(200).optional().describe('only changes of this table, as schema.table');
const values = z.stringbool().default(false).describe('with the rows; needs role operator');

const recent = defineRoute({
  method: 'GET',
  url: '/events/recent',
  role: 'viewer',
  summary: 'The last changes that went by',
  description: `Of the process that captures; at most ${RECENT_MAX} are kept, and of a burst the first ones of each second.`,
  query: { limit: z.coerce.number().int().min(1).max(RECENT_MAX).default(100), table, values },
  reply: z.object({
    count: z.number().int().describe('all that went by since the process started'),
    events: z.array(event),
  }),
  run: ({ query, principal }, { pipeline }) => {
    mayShow(query.values, principal);
    const events = pipeline.recent.last(query.limit, query.table ?? null).map((one) => shown(one, query.values));
    return { count: pipeline.recent.count, events };
  },
});

/** Open streams by caller. */
const streams = new Map<string, number>();

/** Takes one of the caller's streams until its client hangs up. Throws RATE_LIMITED beyond api.streamsMax, NOT_RUNNING beyond all. */
function takeStream({ name }: Principal, max: number, signal: AbortSignal): void {
  const open = streams.get(name) ?? 0;
  if (open >= max)
    throw new WaltideError(
      'RATE_LIMITED',
      `${name} has ${open} streams open`,
      'Close one, or poll events/recent; api.streamsMax says how many one caller may have.',
    );
  if ([...streams.values()].reduce((sum, one) => sum + one, 0) >= STREAMS_MAX)
    throw new WaltideError(
      'NOT_RUNNING',
      `${STREAMS_MAX} streams are open already`,
      'Close one, or poll events/recent.',
    );
  if (signal.aborted) return;
  streams.set(name, open + 1);
  const giveBack = (): void => {
    const left = streams.get(name)! - 1;
    if (left > 0) streams.set(name, left);
    else streams.delete(name);
  };
  signal.addEventListener('abort', giveBack, { once: true });
}

const stream = defineRoute({
  method: 'GET',
  url: '/events/stream',
  role: 'viewer',
  summary: 'Changes and status as they come (server-sent events)',
  description:
    'Events named `change` have the form of events/recent, those named `status` that of cdc/status. A client that is too slow misses changes.',
  query: {
    table,
    values,
    after: z.coerce.number().int().min(0).optional().describe('begin with the kept changes after this number'),
    changes: z.stringbool().default(true),
    status_ms: z.coerce.number().int().min(100).max(60_000).default(1000).describe('how often the status comes'),
  },
  produces: 'text/event-stream',
  reply: z.custom<AsyncIterable<ServerEvent>>(),
  run: ({ query, principal, signal }, deps) => {
    mayShow(query.values, principal);
    takeStream(principal, deps.config.api.streamsMax, signal);
    return serverEvents(deps, query, signal);
  },
});

function mayShow(asked: boolean, principal: Principal): void {
  if (asked) requireRole(principal, 'operator', 'seeing rows');
}

function shown({ json, lsn, committedAt, number, op, table: name, seq }: SeenEvent, withRows: boolean) {
  const head = { number, op, table: name, lsn: formatLsn(lsn), seq, committed_at: committedAt };
  if (!withRows) return head;
  if (json === null) return { ...head, truncated: true };
  const { before, after } = JSON.parse(json) as { before: Record<string, unknown>; after: Record<string, unknown> };
  return { ...head, before, after };
}

interface StreamQuery {
  readonly table?: string | undefined;
  readonly values: boolean;
  readonly after?: number | undefined;
  readonly changes: boolean;
  readonly status_ms: number;
}

/** Ends when the client hangs up. */
async function* serverEvents({ pipeline }: Deps, query: StreamQuery, signal: AbortSignal): AsyncGenerator<ServerEvent> {
  const queue: ServerEvent[] = [];
  let wake = (): void => {};
  const push = (one: ServerEvent): void => {
    queue.push(one);
    if (queue.length > QUEUED_MAX) queue.shift();
    wake();
  };
  const change = (seen: SeenEvent): void => {
    if (query.table !== undefined && seen.table !== query.table) return;
    push({ event: 'change', id: String(seen.number), data: shown(seen, query.values) });
  };
  const status = (): void => push({ event: 'status', data: pipeline.status() });
  const unlisten = query.changes ? pipeline.recent.listen(change) : () => {};
  const timer = setInterval(status, query.status_ms);
  signal.addEventListener('abort', () => wake(), { once: true });
  try {
    status();
    if (query.changes && query.after !== undefined) for (const seen of pipeline.recent.since(query.after)) change(seen);
    while (!signal.aborted) {
      for (let next = queue.shift(); next; next = queue.shift()) yield next;
      if (signal.aborted) return;
      await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    clearInterval(timer);
    unlisten();
  }
}

export const eventRoutes = [recent, stream];
