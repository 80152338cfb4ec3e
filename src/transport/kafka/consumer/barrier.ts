import type { ChangeEvent } from '../../../event/change-event.ts';
import { comparePosition } from '../../../event/position.ts';
import type { PartitionReader } from './partition-reader.ts';

/**
 * The truncate that every one of these partitions (all of one topic) has come to, once they have; null while one
 * has not. It counts for all of them at once, so that a sink saves it on every partition or on none.
 */
export function openBarrier(readers: readonly PartitionReader[]): ChangeEvent | null {
  let first: ChangeEvent | null = null;
  for (const { barrier } of readers) {
    if (barrier && (!first || comparePosition(barrier.event.position, first.position) < 0)) first = barrier.event;
  }
  if (!first) return null;
  const { position } = first;
  for (const reader of readers) {
    // A partition that waits at a later truncate, or was read beyond before a restart, has passed this one.
    if (!reader.barrier && comparePosition(reader.position, position) < 0) return null;
  }
  for (const reader of readers) {
    if (reader.barrier && comparePosition(reader.barrier.event.position, position) === 0) reader.passBarrier();
  }
  return first;
}
