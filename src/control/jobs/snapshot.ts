import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf, WaltideError } from '../../errors.ts';
import { withSession } from '../../postgres/session.ts';
import { listSnapshots, type SnapshotRecord, wishSnapshot } from '../../postgres/snapshots.ts';
import type { Run } from '../../postgres/tracked.ts';
import type { JobDeps, ScheduleOf } from '../job.ts';
import { requestSnapshots } from '../snapshot-requests.ts';

const LOOK_MS = 500;

/** Snapshots of tables, all at once; ends with the last of them. Cancelled, it cancels them. */
export async function snapshotJob(schedule: ScheduleOf<'snapshot'>, run: Run, deps: JobDeps): Promise<void> {
  const { config } = deps;
  const { name, tables, sinks = null, where = null, rowsPerSecondMax = null } = schedule;
  const wanted = { patterns: tables, sinks, where, rowsPerSecondMax, reason: `schedule ${name}` };
  const ids = await withSession(config.source, 'schedule', (client) => requestSnapshots(client, config, wanted));
  run.progress({ metadata: { snapshots: ids } });
  try {
    const ended = await wait(ids, run, deps);
    const bad = ended.filter(({ state }) => state !== 'completed');
    if (bad.length > 0) throw notCompleted(bad);
  } catch (error) {
    // Where the process ends they go on with the next one.
    if (error instanceof WaltideError && error.code === 'RUN_CANCELLED') await cancel(ids, deps);
    throw error;
  }
}

async function wait(ids: readonly string[], run: Run, { config, tracker, log }: JobDeps): Promise<SnapshotRecord[]> {
  for (;;) {
    try {
      const all = await tracker.control((client) => listSnapshots(client, config.source.slot, false));
      const records = all.filter(({ id }) => ids.includes(id));
      run.progress({ records: records.reduce((sum, { rows }) => sum + rows, 0) });
      if (records.every(({ finishedAt }) => finishedAt !== null)) return records;
    } catch (error) {
      log.debug(`waiting for snapshots: ${messageOf(error)}`);
    }
    await sleep(LOOK_MS, undefined, { signal: run.signal }).catch(() => run.signal.throwIfAborted());
  }
}

async function cancel(ids: readonly string[], { tracker, log }: JobDeps): Promise<void> {
  for (const id of ids)
    await tracker
      .control((client) => wishSnapshot(client, id, 'cancel'))
      .catch((error: unknown) => log.warn({ snapshot: id }, `cancelling: ${messageOf(error)}`));
}

function notCompleted(records: readonly SnapshotRecord[]): WaltideError {
  const each = records.map(
    ({ schema, table, state, error }) => `${schema}.${table} ${state}${error === null ? '' : ` (${error})`}`,
  );
  return new WaltideError('SNAPSHOT', `not completed: ${each.join(', ')}`, 'See `waltide snapshot list`.');
}
