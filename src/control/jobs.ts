import type { ScheduleConfig } from '../config/schema.ts';
import type { Role } from '../pipeline/status.ts';
import type { Job, ScheduleOf } from './job.ts';
import { backupJob } from './jobs/backup.ts';
import { cleanupJob } from './jobs/cleanup.ts';
import { exportJob } from './jobs/export.ts';
import { moduleJob } from './jobs/module.ts';
import { optimizeJob } from './jobs/optimize.ts';
import { pullJob } from './jobs/pull.ts';
import { replayJob } from './jobs/replay.ts';
import { snapshotJob } from './jobs/snapshot.ts';
import { validateJob } from './jobs/validate.ts';

/** What schedules can do, by `type`. A new one is a variant in config/schema/schedules.ts and a line here. */
export const JOBS: { readonly [T in ScheduleConfig['type']]: Job<ScheduleOf<T>> } = {
  snapshot: { needs: 'capture', retry: false, run: snapshotJob },
  replay: { needs: 'sinks', retry: true, run: replayJob },
  validate: { needs: 'sinks', retry: false, run: validateJob },
  cleanup: { needs: null, retry: true, run: cleanupJob },
  export: { needs: 'sinks', retry: true, run: exportJob },
  backup: { needs: 'sinks', retry: true, run: backupJob },
  pull: { needs: null, retry: true, run: pullJob },
  optimize: { needs: 'sinks', retry: true, run: optimizeJob },
  module: { needs: null, retry: true, run: moduleJob },
};

/** The job of a schedule, whichever it is. */
export function jobOf(schedule: ScheduleConfig): Job<ScheduleConfig> {
  return JOBS[schedule.type] as Job<ScheduleConfig>;
}

/** Whether a process of that role (null: without a pipeline) can do it. */
export function canDo(schedule: ScheduleConfig, role: Role | null): boolean {
  const { needs } = jobOf(schedule);
  if (needs === null) return true;
  return role === 'all' || role === (needs === 'capture' ? 'capture' : 'apply');
}
