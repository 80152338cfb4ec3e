import { z } from 'zod';
import { messageOf } from '../errors.ts';
import { listSyncStatus } from '../postgres/runs.ts';
import { cached } from './cached.ts';
import type { Deps } from './route.ts';
import { lsnText } from './schemas/common.ts';
import { shownSyncType, syncTypeSchema } from './schemas/runs.ts';

/** Dashboards ask every second, and many of them. */
const SYNC_TYPES_TTL_MS = 1000;

const sink = z.object({
  name: z.string(),
  type: z.string(),
  applied_lsn: lsnText,
  lag_bytes: z.number(),
  lag_seconds: z.number().nullable(),
  events: z.number(),
  events_per_second: z.number(),
  pending_events: z.number(),
  last_error: z.string().nullable(),
  stopped_tables: z.array(z.object({ table: z.string(), reason: z.string() })),
});

/** How everything stands, in one answer: the pipeline of this process, and every sync type. */
export const syncStatusSchema = z.object({
  state: z.enum(['starting', 'copying', 'streaming', 'resting', 'failed', 'stopping', 'stopped']),
  ready: z.boolean(),
  role: z.enum(['all', 'capture', 'apply']),
  started_at: z.string(),
  slot: z.string(),
  source: z
    .object({
      connected: z.boolean(),
      server_lsn: lsnText,
      durable_lsn: lsnText,
      lag_bytes: z.number(),
      events: z.number(),
      events_per_second: z.number(),
    })
    .nullable(),
  sinks: z.array(sink),
  stuck: z.array(z.string()),
  sync_types: z.array(syncTypeSchema).nullable().describe('null where PostgreSQL cannot be asked'),
  unavailable: z.string().nullable().describe('why it cannot'),
});

const syncTypes = cached(SYNC_TYPES_TTL_MS, async ({ sessions }: Deps) =>
  (await sessions.use((client) => listSyncStatus(client))).map(shownSyncType),
);

export async function syncStatus(deps: Deps) {
  const { state, ready, role, startedAt, source, sinks, stuck } = deps.pipeline.status();
  let types: z.input<typeof syncTypeSchema>[] | null = null;
  let unavailable: string | null = null;
  try {
    types = await syncTypes(deps);
  } catch (error) {
    unavailable = messageOf(error);
  }
  return {
    ...{ state, ready, role, started_at: startedAt, slot: deps.config.source.slot, stuck },
    source: source && {
      connected: source.connected,
      server_lsn: source.serverLsn,
      durable_lsn: source.durableLsn,
      lag_bytes: source.lagBytes,
      events: source.events,
      events_per_second: source.eventsPerSecond,
    },
    sinks: sinks.map((one) => ({
      name: one.name,
      type: one.type,
      applied_lsn: one.appliedLsn,
      lag_bytes: one.lagBytes,
      lag_seconds: one.lagSeconds,
      events: one.events,
      events_per_second: one.eventsPerSecond,
      pending_events: one.pendingEvents,
      last_error: one.lastError,
      stopped_tables: one.stopped.map(({ name, reason }) => ({ table: name, reason })),
    })),
    sync_types: types,
    unavailable,
  };
}
