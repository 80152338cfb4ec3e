import { z } from 'zod';
import { formatLsn } from '../../event/lsn.ts';
import { slotSide, withSession } from '../../postgres/session.ts';
import { listSlots, type SlotInfo } from '../../postgres/slot.ts';
import { defineRoute } from '../route.ts';
import { lsnText } from '../schemas/common.ts';

const slot = z.object({
  name: z.string(),
  ours: z.boolean().describe('the slot of this pipeline'),
  plugin: z.string().nullable(),
  database: z.string().nullable(),
  active: z.boolean(),
  confirmed_flush_lsn: lsnText.nullable(),
  restart_lsn: lsnText.nullable(),
  wal_status: z.string().nullable(),
  temporary: z.boolean(),
  invalidation: z.string().nullable().describe('why it can never be used again'),
  inactive_since: z.date().nullable(),
  failover: z.boolean(),
  synced: z.boolean(),
  retained_bytes: z.number().nullable(),
  safe_wal_bytes: z.number().nullable(),
});

const slots = defineRoute({
  method: 'GET',
  url: '/slots',
  role: 'viewer',
  summary: 'Logical slots of the server, and the WAL that each retains',
  reply: z.object({ slots: z.array(slot) }),
  run: async (_request, { config }) => {
    const found = await withSession(slotSide(config.source), 'api', listSlots);
    return { slots: found.map((one) => shown(one, config.source.slot)) };
  },
});

function shown(info: SlotInfo, own: string) {
  const lsn = (value: bigint | null): string | null => (value === null ? null : formatLsn(value));
  return {
    name: info.name,
    ours: info.name === own,
    plugin: info.plugin,
    database: info.database,
    active: info.active,
    confirmed_flush_lsn: lsn(info.confirmedFlushLsn),
    restart_lsn: lsn(info.restartLsn),
    wal_status: info.walStatus,
    temporary: info.temporary,
    invalidation: info.invalidation,
    inactive_since: info.inactiveSince,
    failover: info.failover,
    synced: info.synced,
    retained_bytes: info.retainedBytes,
    safe_wal_bytes: info.safeWalBytes,
  };
}

export const slotRoutes = [slots];
