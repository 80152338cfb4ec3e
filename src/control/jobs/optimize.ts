import { WaltideError } from '../../errors.ts';
import type { Run } from '../../postgres/tracked.ts';
import type { JobDeps, ScheduleOf } from '../job.ts';
import { heldSink } from '../store-runs.ts';

/** Makes the store of a sink smaller, and faster to read. */
export async function optimizeJob({ sink: name }: ScheduleOf<'optimize'>, run: Run, deps: JobDeps): Promise<void> {
  const sink = heldSink(deps.pipeline!, name);
  if (!sink.optimize)
    throw new WaltideError('CONFIG_INVALID', `sink "${name}" has nothing to optimize`, 'Remove the schedule.');
  const { bytesBefore, bytesAfter, done } = await sink.optimize(run.signal);
  run.progress({ metadata: { bytesBefore, bytesAfter, done } });
}
