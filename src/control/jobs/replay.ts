import { parseRelationName } from '../../event/relation.ts';
import type { Run } from '../../postgres/tracked.ts';
import type { JobDeps, ScheduleOf } from '../job.ts';
import { replayTracked } from '../replay-run.ts';

/** Applies the changes of the last hours once more, and ends once the sink is where it was. */
export async function replayJob(
  { sink, tables, hours }: ScheduleOf<'replay'>,
  run: Run,
  { tracker, pipeline }: JobDeps,
): Promise<void> {
  const from = { time: new Date(Date.now() - hours * 3_600_000) };
  const request = { sink, tables: tables?.map(parseRelationName) ?? null, from };
  const { runId, done } = await replayTracked(tracker, pipeline!, request);
  run.progress({ metadata: { replayRun: runId } });
  const cancel = (): void => void tracker.cancel(runId).catch(() => {});
  run.signal.addEventListener('abort', cancel, { once: true });
  await done;
}
