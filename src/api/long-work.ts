import { setTimeout as sleep } from 'node:timers/promises';
import { canDo, jobOf } from '../control/jobs.ts';
import { replayTracked } from '../control/replay-run.ts';
import { checkSnapshots, requestSnapshots } from '../control/snapshot-requests.ts';
import { WaltideError } from '../errors.ts';
import { formatLsn } from '../event/lsn.ts';
import { relationName } from '../event/relation.ts';
import type { ReplayRequest } from '../pipeline/replay.ts';
import { expectSchedule, noteScheduleRun } from '../postgres/schedules.ts';
import { readSnapshot, type SnapshotRecord, wishSnapshot } from '../postgres/snapshots.ts';
import type { Run } from '../postgres/tracked.ts';
import type { Deps } from './route.ts';
import { tableName } from './schemas/common.ts';

/* Work that goes on after the answer: each is a run, found by the id that the answer holds. */

const SNAPSHOT_POLL_MS = 500;

export interface SnapshotsAsked {
  /** Names, or patterns as in source.tables. */
  readonly patterns: readonly string[];
  readonly sinks: readonly string[] | null;
  /** Refreshes the rows that meet this SQL condition; left out, or null: all of the table. */
  readonly where?: string | null;
  readonly chunkRows?: number | null;
  readonly rowsPerSecondMax?: number | null;
}

export interface StartedSnapshots {
  readonly run_id: string;
  readonly sync_type: string;
  readonly snapshots: readonly string[];
}

/** Asks for snapshots and follows them as one run. Rejects, with nothing asked for, as `requestSnapshots` does. */
export async function snapshotTables(deps: Deps, asked: SnapshotsAsked): Promise<StartedSnapshots> {
  const { config, sessions, tracker } = deps;
  const { patterns, sinks, where = null, chunkRows = null, rowsPerSecondMax = null } = asked;
  const wanted = { patterns, sinks, where, rowsPerSecondMax, chunkRows, reason: 'asked for through the API' };
  const tables = (await sessions.use((client) => checkSnapshots(client, config, wanted))).map(relationName);
  const syncType = tables.length === 1 ? `snapshot:${tables[0]}` : 'snapshot:manual';
  return new Promise((resolve, reject) => {
    // The run comes first: the process that captures begins at once, and records snapshots that nobody else does.
    const work = async (run: Run): Promise<void> => {
      const ids = await sessions
        .use((client) => requestSnapshots(client, config, wanted))
        .catch((error: unknown) => {
          reject(error);
          throw error;
        });
      run.progress({ metadata: { snapshots: ids } });
      resolve({ run_id: run.id, sync_type: syncType, snapshots: ids });
      await followSnapshots(deps, ids, run);
    };
    tracker.start(syncType, work, { retry: false, metadata: { tables } }).catch(reject);
  });
}

/** Resolves once all are completed. Cancelling the run cancels them; that the process ends does not. */
async function followSnapshots(deps: Deps, ids: readonly string[], run: Run): Promise<void> {
  for (;;) {
    const records = await readAll(deps, ids);
    run.progress({ records: records.reduce((sum, { rows }) => sum + rows, 0) });
    const bad = records.find(({ state }) => state === 'failed' || state === 'cancelled');
    if (records.every(({ finishedAt }) => finishedAt !== null)) {
      if (!bad) return;
      const why = bad.error === null ? '' : `: ${bad.error}`;
      const message = `the snapshot of ${relationName(bad)} is ${bad.state}${why}`;
      throw new WaltideError('TABLES', message, 'Ask for it again: POST snapshots.');
    }
    await sleep(SNAPSHOT_POLL_MS, undefined, { signal: run.signal }).catch(() => {});
    if (!run.signal.aborted) continue;
    const { reason } = run.signal as { reason: unknown };
    if (reason instanceof WaltideError && reason.code === 'RUN_CANCELLED') await cancelAll(deps, ids);
    throw reason;
  }
}

async function readAll({ sessions }: Deps, ids: readonly string[]): Promise<SnapshotRecord[]> {
  const records = await sessions.use(async (client) => {
    const found: (SnapshotRecord | null)[] = [];
    for (const id of ids) found.push(await readSnapshot(client, id));
    return found;
  });
  return records.filter((record) => record !== null);
}

async function cancelAll({ sessions }: Deps, ids: readonly string[]): Promise<void> {
  await sessions.use(async (client) => {
    for (const id of ids) await wishSnapshot(client, id, 'cancel');
  });
}

export interface StartedReplay {
  readonly run_id: string;
  readonly sync_type: string;
  readonly sink: string;
  readonly tables: readonly string[] | null;
  readonly from: string | null;
  readonly stood_at: string;
}

/** Changes of one table from `since` on, into `sink` or the only one there is. */
export function replayTable(deps: Deps, table: string, since: Date, sink: string | null): Promise<StartedReplay> {
  const names = deps.pipeline.status().sinks.map(({ name }) => name);
  if (sink === null && names.length !== 1)
    throw new WaltideError('USAGE', 'say which sink', `Sinks of this process: ${names.join(', ') || 'none'}.`);
  return startReplay(deps, { sink: sink ?? names[0]!, tables: [tableName(table)], from: { time: since } });
}

/**
 * Resolves once the sink has gone back; the run ends when it is where it stood. Rejects, with nothing changed, where it
 * cannot go back.
 */
export async function startReplay(deps: Deps, request: ReplayRequest): Promise<StartedReplay> {
  const { pipeline, tracker } = deps;
  const syncType = `replay:${request.sink}`;
  if (!pipeline.status().sinks.some(({ name }) => name === request.sink))
    throw new WaltideError('NOT_FOUND', `this process has no sink "${request.sink}"`, 'GET sinks lists them.');
  const { runId, plan } = await replayTracked(tracker, pipeline, request);
  const { sink, tables, from, stoodAt } = plan;
  return {
    run_id: runId,
    sync_type: syncType,
    sink,
    tables,
    from: from === null ? null : formatLsn(from),
    stood_at: formatLsn(stoodAt),
  };
}

/** Does the work of a schedule now, as a run under its name. Rejects with RUN_BUSY while it is being done. */
export async function startSchedule(deps: Deps, name: string): Promise<{ run_id: string; sync_type: string }> {
  const { config, log, pipeline, sessions, tracker } = deps;
  const schedule = config.schedules.find((one) => one.name === name);
  if (!schedule) throw new WaltideError('NOT_FOUND', `there is no schedule "${name}"`, 'GET schedules lists them.');
  const { role } = pipeline.status();
  if (!canDo(schedule, role))
    throw new WaltideError(
      'NOT_RUNNING',
      `a process of role ${role} cannot do schedule "${name}" (${schedule.type})`,
      'Ask one that has what it needs (GET instances), or use `waltide schedule run`.',
    );
  const job = jobOf(schedule);
  const work = async (run: Run): Promise<void> => {
    const { slot } = config.source;
    await sessions.use(async (client) => {
      await expectSchedule(client, slot, schedule, new Date());
      await noteScheduleRun(client, slot, name, run.id);
    });
    await job.run(schedule, run, { config, log, tracker, pipeline });
  };
  const metadata = { schedule: { type: schedule.type } };
  return { run_id: await tracker.start(name, work, { retry: job.retry, metadata }), sync_type: name };
}
