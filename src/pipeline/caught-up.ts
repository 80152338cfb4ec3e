import { formatLsn, type Lsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import type { Applier } from './applier.ts';
import type { Capture } from './capture.ts';
import type { UntilSubscription } from './until.ts';

/** How often it is asked; costs nothing, and bounds what it adds to a run's time. */
const POLL_MS = 20;

export interface CaughtUpOptions {
  /** Where a replay is to stop; null where there is none. */
  readonly bound: UntilSubscription | null;
  readonly capture: Capture | null;
  readonly appliers: readonly Applier[];
  readonly log: Log;
}

/** Resolves once every sink has applied what was committed before `target`, and all that snapshots brought; or when `signal` aborts. */
export async function caughtUp(target: Lsn, options: CaughtUpOptions, signal: AbortSignal): Promise<void> {
  const { log } = options;
  log.debug({ target: formatLsn(target) }, 'catching up');
  while (!signal.aborted) {
    if (reached(target, options)) {
      log.info({ target: formatLsn(target) }, 'caught up');
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function reached(target: Lsn, { bound, capture, appliers }: CaughtUpOptions): boolean {
  if (bound) return bound.reached;
  if (capture?.settled === false) return false;
  // Through Kafka a snapshot ends before the sinks have it.
  const ended = capture?.snapshotsEndedBy ?? 0n;
  const end = ended > target ? ended : target;
  if (appliers.length === 0) return (capture?.durableLsn ?? 0n) >= end;
  return appliers.every(({ subscription }) => subscription.appliedLsn() >= end);
}
