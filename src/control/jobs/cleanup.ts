import { cleanUp } from '../../postgres/run-cleanup.ts';
import { withSession } from '../../postgres/session.ts';
import type { Run } from '../../postgres/tracked.ts';
import type { JobDeps, ScheduleOf } from '../job.ts';

/** Removes what is old from the control schema. */
export async function cleanupJob({ historyDays }: ScheduleOf<'cleanup'>, run: Run, { config }: JobDeps): Promise<void> {
  const days = historyDays ?? config.tracking.historyDays;
  const removed = await withSession(config.source, 'cleanup', (client) => cleanUp(client, days, run.signal));
  run.progress({ records: Object.values(removed).reduce((sum, rows) => sum + rows, 0), metadata: { removed } });
}
