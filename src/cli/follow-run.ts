import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { hasLeft } from '../api/control-client.ts';
import { type ControlFile, isAlive } from '../api/control-file.ts';
import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { type RunRecord, readRun, requestCancel } from '../postgres/runs.ts';
import { withSession } from '../postgres/session.ts';

const POLL_MS = 300;
/** One that drains closes its control address before its runs have ended. */
const DRAIN_MS = 5000;

/**
 * Resolves with the run once it has ended well; rejects with how it failed, and with NOT_RUNNING where `holder`, which does it, is
 * gone. Ctrl-C cancels it.
 */
export function followRun(config: Config, holder: ControlFile, id: string, signal: AbortSignal): Promise<RunRecord> {
  return withSession(config.source, 'follow run', async (client) => {
    let cancelled = false;
    let leftAt: number | null = null;
    for (;;) {
      const lost = leftAt !== null && (!isAlive(holder) || performance.now() - leftAt > DRAIN_MS);
      // Read after it was found gone: how the run ended may be the last that the process has said.
      const run = await readEnd(client, id, cancelled);
      if (run.status === 'success') return run;
      if (lost) throw gone(holder, run);
      if (signal.aborted && !cancelled) {
        cancelled = await requestCancel(client, id);
        // Nobody does it: it has ended since, or never will.
        if (!cancelled && (await readEnd(client, id, cancelled)).status === 'in_progress') throw gone(holder, run);
        continue;
      }
      if (await hasLeft(holder)) leftAt ??= performance.now();
      await sleep(POLL_MS, undefined, { signal: cancelled ? undefined : signal }).catch(() => {});
    }
  });
}

/** Throws where it has failed. */
async function readEnd(client: pg.Client, id: string, cancelled: boolean): Promise<RunRecord> {
  const run = await readRun(client, id);
  if (!run) throw new WaltideError('RUN_LOST', `there is no run ${id} any more`, 'See `waltide history`.');
  if (run.status !== 'error') return run;
  throw new WaltideError(
    cancelled ? 'RUN_CANCELLED' : 'SINK',
    `run ${id} of ${run.syncType} failed: ${run.error ?? ''}`,
    'What was there before is as it was; mend the cause and start it again.',
  );
}

function gone({ pid }: ControlFile, { id, syncType }: RunRecord): WaltideError {
  return new WaltideError(
    'NOT_RUNNING',
    `the process with pid ${pid} is gone, and with it run ${id} of ${syncType}, which it did`,
    'What was there before is as it was. Start the process with `waltide run` (its log says why it ended), then this command again.',
  );
}
