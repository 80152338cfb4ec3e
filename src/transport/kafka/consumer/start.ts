import type { Offset } from '../../../event/offset.ts';
import { START } from '../../../event/position.ts';
import { type Cluster, EARLIEST, LATEST, partitionKey, type TopicPartition } from '../cluster.ts';
import type { Progress } from '../progress.ts';
import { outOfRange } from './fetcher.ts';

export interface Start {
  readonly offset: Offset;
  /** The sink does not know this offset: it is to save it, even where nothing ever comes. */
  readonly unsaved: boolean;
}

/**
 * Where a sink begins on each of these partitions. Rejects with OFFSET_OUT_OF_RANGE where the log no longer holds what
 * it wants next. `empty`: the sink has no offsets and the log no longer reaches back to the copy, so it starts where
 * the log ends; what came before it must get from snapshots.
 */
export async function startingOffsets(
  cluster: Cluster,
  partitions: readonly TopicPartition[],
  saved: ReadonlyMap<string, Offset>,
  progress: Progress | null,
): Promise<{ starts: Map<string, Start>; empty: boolean }> {
  const first = await cluster.listOffsets(partitions, EARLIEST);
  const last = await cluster.listOffsets(partitions, LATEST);
  const copyStart = ({ topic, partition }: TopicPartition) => progress?.copyStart.get(topic)?.[partition] ?? 0n;
  const keyOf = ({ topic, partition }: TopicPartition) => partitionKey(topic, partition);
  const empty = saved.size === 0 && partitions.some((item) => copyStart(item) < first.get(keyOf(item))!);
  // Committed records only: a Kafka transaction that is still open may be completed after we have begun.
  const stable = empty ? await cluster.listOffsets(partitions, LATEST, 1) : last;
  const starts = new Map<string, Start>();
  for (const item of partitions) {
    const key = keyOf(item);
    if (empty) {
      const position = { commitLsn: progress?.lsn ?? 0n, seq: 0 };
      starts.set(key, { offset: { partition: key, position, next: stable.get(key)! }, unsaved: true });
      continue;
    }
    const known = saved.get(key);
    // A saved offset counts only where the sink has seen the newest copy: otherwise topics may have been made anew.
    const current = known && progress?.copyLsn != null && known.position.commitLsn >= progress.copyLsn;
    const offset = current ? known : { partition: key, position: known?.position ?? START, next: copyStart(item) };
    const next = offset.next ?? 0n;
    if (next < first.get(key)! || next > last.get(key)!) throw outOfRange(key, next, first.get(key)!, last.get(key)!);
    starts.set(key, { offset, unsaved: false });
  }
  return { starts, empty };
}
