import { z } from 'zod';
import { formatLsn } from '../../event/lsn.ts';
import { requireReached } from '../../pipeline/arrivals.ts';
import { defineRoute } from '../route.ts';
import { lsn, lsnText, reached, timeout } from '../schemas/common.ts';

const TIMEOUT_S_MAX = 300;

const wait = defineRoute({
  method: 'GET',
  url: '/sync/wait',
  role: 'viewer',
  summary: 'Wait until sinks hold what was committed before an LSN',
  description:
    'Read your writes: take `select pg_current_wal_insert_lsn()` after the commit, wait for it, then query the sink. Where a sink does not come so far in time, the answer is 504 with code NOT_REACHED.',
  query: {
    lsn,
    sink: z.string().min(1).max(200).optional().describe('name of the sink; all of this process when left out'),
    timeout: timeout(TIMEOUT_S_MAX).default(30_000),
  },
  reply: z.object({ lsn: lsnText, sinks: reached }),
  run: async ({ query, signal }, { pipeline }) => {
    const { lsn: wanted, sink, timeout: timeoutMs } = query;
    const sinks = sink === undefined ? pipeline.status().sinks.map(({ name }) => name) : [sink];
    const arrival = await pipeline.waitFor(wanted, { sinks, timeoutMs, signal });
    requireReached(arrival, wanted, timeoutMs);
    return {
      lsn: formatLsn(wanted),
      sinks: arrival.sinks.map(({ name, appliedLsn, reached: there }) => ({
        ...{ name, applied_lsn: formatLsn(appliedLsn), reached: there },
      })),
    };
  },
});

export const waitRoutes = [wait];
