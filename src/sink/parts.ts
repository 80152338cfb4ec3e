import { RejectedBatchError, RejectedError, WaltideError } from '../errors.ts';
import type { ChangeEvent } from '../event/change-event.ts';

export interface PartsOptions {
  /** Resolves with those that are still for the sink, now that others may have been refused. */
  readonly sift: (part: readonly ChangeEvent[]) => Promise<readonly ChangeEvent[]>;
  /** `last`: nothing comes after it. Resolves with false where the loop is to end. */
  readonly apply: (part: readonly ChangeEvent[], last: boolean) => Promise<boolean>;
  /** Resolves = durably set aside; with what is left of the event for the sink. */
  readonly refuse: (event: ChangeEvent, reason: string) => Promise<ChangeEvent | null>;
  /** One table cannot be held. Resolves with those of the events that are still for the sink. */
  readonly stop: (error: RejectedError, rest: readonly ChangeEvent[]) => Promise<readonly ChangeEvent[]>;
}

/** True where a sink refused some of a batch, and not a table. */
export function isBatchRejection(error: unknown): error is WaltideError {
  return error instanceof WaltideError && error.code === 'SINK_REJECTED' && !(error instanceof RejectedError);
}

/**
 * Applies events in order though the sink refuses some of them: by halves until what it refuses stands alone, and is set
 * aside. For one culprit among n that is about log2(n) more calls of the sink. Resolves with false where the loop is to end.
 */
export async function applyInParts(events: readonly ChangeEvent[], options: PartsOptions): Promise<boolean> {
  /** The next part last. */
  let parts: (readonly ChangeEvent[])[] = [events];
  for (let next = parts.pop(); next; next = parts.pop()) {
    const part = await options.sift(next);
    try {
      if (!(await options.apply(part, parts.length === 0))) return false;
    } catch (error) {
      if (error instanceof RejectedError) {
        const rest = [part, ...parts.reverse()].flat();
        parts = [await options.stop(error, rest)];
      } else if (isBatchRejection(error)) parts.push(...(await divide(part, error, options.refuse)));
      else throw error;
    }
  }
  return true;
}

/** What to apply instead of a part that was refused, the first of it last. */
async function divide(
  part: readonly ChangeEvent[],
  error: WaltideError,
  refuse: PartsOptions['refuse'],
): Promise<(readonly ChangeEvent[])[]> {
  const culprits = error instanceof RejectedBatchError ? error.culprits : new Map<object, string>();
  const [only] = part;
  if (!only) throw error;
  if (part.length === 1) {
    const left = await refuse(only, culprits.get(only) ?? error.message);
    return [left ? [left] : []];
  }
  // One at a time: what comes before a culprit must be in the sink before it is set aside.
  const first = part.findIndex((event) => culprits.has(event));
  if (first >= 0)
    return [part.slice(first + 1), [part[first]!], part.slice(0, first)].filter(({ length }) => length > 0);
  const middle = cut(part);
  return [part.slice(middle), part.slice(0, middle)];
}

/** About the middle: where a transaction ends, if one does near by, so that readers see as few parts of one as can be. */
function cut(part: readonly ChangeEvent[]): number {
  const middle = part.length >> 1;
  const ends = (i: number): boolean => part[i - 1]!.transaction !== part[i]!.transaction;
  for (let away = 0; away < part.length >> 2; away++) {
    if (ends(middle - away)) return middle - away;
    if (ends(middle + away)) return middle + away;
  }
  return middle;
}
