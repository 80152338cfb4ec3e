import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { type RunRecord, readRun, requestCancel } from '../postgres/runs.ts';
import { withSession } from '../postgres/session.ts';

const POLL_MS = 300;

/** Resolves with the run once it has ended well; rejects with how it failed. Ctrl-C cancels it. */
export function followRun(config: Config, id: string, signal: AbortSignal): Promise<RunRecord> {
  return withSession(config.source, 'follow run', async (client) => {
    for (let cancelled = false; ; ) {
      const run = await readRun(client, id);
      if (!run) throw new WaltideError('RUN_LOST', `there is no run ${id} any more`, 'See `waltide history`.');
      if (run.status === 'success') return run;
      if (run.status === 'error')
        throw new WaltideError(
          cancelled ? 'RUN_CANCELLED' : 'SINK',
          `run ${id} of ${run.syncType} failed: ${run.error ?? ''}`,
          'What was there before is as it was; mend the cause and start it again.',
        );
      if (signal.aborted && !cancelled) cancelled = await requestCancel(client, id);
      await sleep(POLL_MS, undefined, { signal: cancelled ? undefined : signal }).catch(() => {});
    }
  });
}
