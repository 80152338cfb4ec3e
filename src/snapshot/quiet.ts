import { messageOf } from '../errors.ts';
import { noteWaiting, type SnapshotRecord } from '../postgres/snapshots.ts';
import type { SnapshotContext } from './context.ts';

/**
 * Waits aside for those who have written to the table: others take the place meanwhile. `wait` tells the one it is given whom
 * it waits for, which the snapshot's record says until the wait is over.
 */
export async function waitAside(
  { aside, control, log }: SnapshotContext,
  { id }: SnapshotRecord,
  signal: AbortSignal,
  wait: (onWaiting: (who: string) => Promise<unknown>) => Promise<void>,
): Promise<void> {
  let noted = false;
  const note = (who: string | null): Promise<unknown> =>
    control((client) => noteWaiting(client, id, who)).catch((error: unknown) =>
      log.debug({ snapshot: id }, `noting what a snapshot waits for: ${messageOf(error)}`),
    );
  const onWaiting = (who: string): Promise<unknown> => {
    noted = true;
    return note(who);
  };
  try {
    await aside(() => wait(onWaiting), signal);
  } finally {
    // Not waited for: whoever pauses it, or stops the process, does not want to.
    if (noted) void note(null);
  }
}
