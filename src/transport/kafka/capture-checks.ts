import { WaltideError } from '../../errors.ts';
import { formatLsn, type Lsn } from '../../event/lsn.ts';
import type { SourceIdentity } from '../../event/offset.ts';
import type { PartitionLog } from './partition-log.ts';
import { topicMissing } from './producer-errors.ts';
import type { Progress } from './progress.ts';

/** Throws CLUSTER_MISMATCH where the topics hold the changes of another source. */
export function checkIdentity(prefix: string, mine: SourceIdentity, theirs: SourceIdentity): void {
  for (const field of ['systemIdentifier', 'database', 'slot'] as const) {
    if (mine[field] === theirs[field]) continue;
    throw new WaltideError(
      'CLUSTER_MISMATCH',
      `The topics ${prefix}.* hold the changes of ${field} ${theirs[field]}; this source has ${field} ${mine[field]}`,
      'Use another transport.topicPrefix, or delete the topics of this prefix if nobody needs them.',
    );
  }
}

/** Throws SLOT_AHEAD where the slot has acknowledged (`confirmed`) what the topics do not hold. */
export function checkSlot(prefix: string, confirmed: Lsn | null, last: Progress | null): void {
  // 0: a first copy was cut short. Nothing was acknowledged, so the slot still stands at its beginning.
  if (confirmed === null || (last !== null && (last.lsn === 0n || confirmed <= last.lsn))) return;
  const stored = last ? `only everything up to ${formatLsn(last.lsn)}` : 'nothing';
  throw new WaltideError(
    'SLOT_AHEAD',
    `The slot has acknowledged ${formatLsn(confirmed)}, but the topics ${prefix}.* hold ${stored}: changes between are lost to them`,
    'Find out who else advanced the slot or deleted topics, then copy everything again with `waltide run --recopy`.',
  );
}

/** Throws TOPIC_MISSING where a topic ends before what was written to it. */
export function checkEnds(last: Progress, logsOf: (topic: string) => readonly PartitionLog[] | undefined): void {
  for (const [topic, ends] of last.ends) {
    const logs = logsOf(topic);
    if (logs && ends.some((end, i) => (logs[i]?.end ?? 0n) < end))
      throw topicMissing(topic, 'was deleted and created again');
  }
}
