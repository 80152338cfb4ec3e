import type { Run } from '../../postgres/tracked.ts';
import type { JobDeps, ScheduleOf } from '../job.ts';
import { runExport } from '../store-runs.ts';

/** Writes tables of a sink as Parquet. */
export async function exportJob(schedule: ScheduleOf<'export'>, run: Run, deps: JobDeps): Promise<void> {
  const { config, log, pipeline } = deps;
  const { sink, to, tables, partitionBy, where, compression, rowGroupSize, keep } = schedule;
  const wish = {
    to,
    ...(tables && { tables }),
    ...(partitionBy && { partitionBy }),
    ...(where && { where }),
    ...(compression && { compression }),
    ...(rowGroupSize && { rowGroupSize }),
    ...(keep && { keep }),
  };
  await runExport({ config, log, pipeline: pipeline! }, sink, wish, run);
}
