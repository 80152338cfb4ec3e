import type { Run } from '../../postgres/tracked.ts';
import type { JobDeps, ScheduleOf } from '../job.ts';
import { backupInto } from '../store-runs.ts';

/** Copies the store of a sink into a directory, and keeps the newest copies. */
export async function backupJob({ sink, to, keep }: ScheduleOf<'backup'>, run: Run, deps: JobDeps): Promise<void> {
  const { config, log, pipeline } = deps;
  await backupInto({ config, log, pipeline: pipeline! }, sink, { directory: to, keep }, run);
}
