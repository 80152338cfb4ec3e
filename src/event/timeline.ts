import { WaltideError } from '../errors.ts';
import { formatLsn, parseLsn } from './lsn.ts';
import type { SourceIdentity } from './offset.ts';
import type { Position } from './position.ts';

/**
 * Throws TIMELINE where what `who` holds up to `reached`, on `timeline`, is not what the server's present timeline
 * holds up to there: a standby was promoted that had not received all of it.
 */
export function checkTimeline(who: string, timeline: number, reached: Position, server: SourceIdentity): void {
  if (timeline === server.timeline) return;
  const ancestor = server.ancestors?.find((one) => one.timeline === timeline);
  if (!ancestor)
    throw new WaltideError(
      'TIMELINE',
      `${who} follows timeline ${timeline}, which the server, on timeline ${server.timeline}, does not come from`,
      'The server is an old primary, or was restored beside the one that was followed. Point source.url at the present primary, or copy anew with `waltide run --recopy`.',
    );
  const end = parseLsn(ancestor.end);
  const { commitLsn, seq } = reached;
  // A position after a whole transaction is the LSN of what comes next; any other that of a commit record.
  if (seq === 0 ? commitLsn <= end : commitLsn < end) return;
  throw new WaltideError(
    'TIMELINE',
    `${who} stands at ${formatLsn(commitLsn)} of timeline ${timeline}, but the standby that was promoted had that timeline only up to ${ancestor.end}: what lies between is lost in the source`,
    "Copy anew with `waltide run --recopy`, so that the sinks hold what the source holds. To rule it out: source.failover: true, and the standby's slot in synchronized_standby_slots (PostgreSQL 17).",
  );
}
