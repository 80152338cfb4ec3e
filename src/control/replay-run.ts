import { setTimeout as sleep } from 'node:timers/promises';
import { formatLsn, parseLsn } from '../event/lsn.ts';
import type { Pipeline } from '../pipeline/pipeline.ts';
import type { ReplayPlan, ReplayRequest } from '../pipeline/replay.ts';
import type { Run, Tracker } from '../postgres/tracked.ts';

const LOOK_MS = 200;

type Replaying = Pick<Pipeline, 'status' | 'replay'>;

export interface StartedReplay {
  readonly runId: string;
  readonly plan: ReplayPlan;
  /** Resolves once the sink is where it was. */
  readonly done: Promise<void>;
}

/**
 * A replay as run `replay:<sink>`. Resolves once the sink has durably gone back; the run goes on until it is where it was.
 * Rejects as Pipeline.replay does, and with RUN_BUSY where one is under way.
 */
export function replayTracked(tracker: Tracker, pipeline: Replaying, request: ReplayRequest): Promise<StartedReplay> {
  return new Promise((resolve, reject) => {
    let started = (_run: Run, _plan: ReplayPlan): void => {};
    const done = tracker.tracked(
      `replay:${request.sink}`,
      async (run) => {
        const plan = await pipeline.replay(request);
        started(run, plan);
        await follow(pipeline, plan, run);
      },
      { retry: false },
    );
    started = (run, plan) => resolve({ runId: run.id, plan, done });
    done.catch(reject);
  });
}

/** What was begun cannot be taken back: cancelling the run only ends the watching. */
async function follow(pipeline: Replaying, plan: ReplayPlan, run: Run): Promise<void> {
  const { sink, tables, from, stoodAt } = plan;
  const plain = { sink, tables, from: from === null ? null : formatLsn(from), stoodAt: formatLsn(stoodAt) };
  for (;;) {
    const status = pipeline.status().sinks.find(({ name }) => name === sink);
    run.progress({ metadata: { ...plain, appliedLsn: status?.appliedLsn ?? null } });
    if (status && parseLsn(status.appliedLsn) >= stoodAt) return;
    await sleep(LOOK_MS, undefined, { signal: run.signal });
  }
}
