import { type ErrorCode, WaltideError } from '../errors.ts';
import { formatLsn } from '../event/lsn.ts';
import type { Pipeline } from '../pipeline/pipeline.ts';
import type { ReplayPlan, ReplayRequest } from '../pipeline/replay.ts';
import type { Run, Tracker } from '../postgres/tracked.ts';

/** A sink that goes on by itself is looked at again after this. */
const WAIT_MS = 60_000;

type Replaying = Pick<Pipeline, 'replay' | 'waitFor'>;

export interface StartedReplay {
  readonly runId: string;
  readonly plan: ReplayPlan;
  /** Resolves once the sink is where it was. */
  readonly done: Promise<void>;
}

/** Of a request that cannot be done as it is: the sink has not gone back. */
const REFUSALS: readonly ErrorCode[] = ['REPLAY', 'USAGE', 'NOT_RUNNING'];

/** What is refused is no failed replay: whoever asked is told, and nothing was to be done. */
export function replayRefused(error: unknown): boolean {
  return error instanceof WaltideError && REFUSALS.includes(error.code);
}

/**
 * A replay as run `replay:<sink>`. Resolves once the sink has durably gone back; the run goes on until it is where it was.
 * Rejects as Pipeline.replay does, and with RUN_BUSY where one is under way.
 */
export function replayTracked(tracker: Tracker, pipeline: Replaying, request: ReplayRequest): Promise<StartedReplay> {
  return new Promise((resolve, reject) => {
    let begun = false;
    const done: Promise<void> = tracker.tracked(
      `replay:${request.sink}`,
      async (run) => {
        const plan = await pipeline.replay(request);
        begun = true;
        resolve({ runId: run.id, plan, done });
        await follow(pipeline, plan, run);
      },
      { retry: false, refused: (error) => !begun && replayRefused(error) },
    );
    done.catch(reject);
  });
}

/** What was begun cannot be taken back: cancelling the run only ends the watching. */
async function follow(pipeline: Replaying, plan: ReplayPlan, run: Run): Promise<void> {
  const { sink, tables, from, stoodAt } = plan;
  const metadata = { sink, tables, from: from === null ? null : formatLsn(from), stoodAt: formatLsn(stoodAt) };
  run.progress({ latest: metadata.stoodAt, metadata });
  const wait = { sinks: [sink], timeoutMs: WAIT_MS, signal: run.signal };
  while (!(await pipeline.waitFor(stoodAt, wait)).reached) run.signal.throwIfAborted();
}
