import { formatLsn, type Lsn, parseLsn } from '../../event/lsn.ts';
import type { SourceIdentity } from '../../event/offset.ts';
import { formatPosition, type Position, parsePosition } from '../../event/position.ts';

/** A record of the progress topic: everything committed before `lsn` lies below `ends`. */
export interface Progress {
  readonly lsn: Lsn;
  /** With transport.exactlyOnce: the log holds everything up to and including here, and nothing after it. Else null. */
  readonly position: Position | null;
  readonly identity: SourceIdentity;
  /** Log ends of every data topic, per partition. */
  readonly ends: ReadonlyMap<string, readonly bigint[]>;
  /** Of these topics, those to which nothing is written any more: nobody misses them once they are deleted. */
  readonly retired: readonly string[];
  /**
   * Log ends when the newest copy of the tables began (the slot was new). A new sink starts there: what is below
   * belongs to an older slot and is in the copy as far as it still matters.
   */
  readonly copyStart: ReadonlyMap<string, readonly bigint[]>;
  /**
   * LSN at which the rows of that copy stand; null until its first record is on the way. A sink whose position lies
   * before it has not seen the copy, so that its log offsets (of topics deleted since, perhaps) mean nothing.
   */
  readonly copyLsn: Lsn | null;
}

/** All records have this one key, so that compaction keeps the last. */
export const PROGRESS_KEY = 'progress';

export function encodeProgress(progress: Progress): string {
  return JSON.stringify({
    lsn: formatLsn(progress.lsn),
    ...(progress.position ? { position: formatPosition(progress.position) } : {}),
    identity: progress.identity,
    ends: encodeOffsets(progress.ends),
    ...(progress.retired.length > 0 ? { retired: progress.retired } : {}),
    copyStart: encodeOffsets(progress.copyStart),
    copyLsn: progress.copyLsn === null ? null : formatLsn(progress.copyLsn),
  });
}

/** Null on a record that is none of ours. */
export function decodeProgress(value: Buffer): Progress | null {
  try {
    const { lsn, position, identity, ends, retired, copyStart, copyLsn } = JSON.parse(value.toString());
    return {
      lsn: parseLsn(lsn),
      position: typeof position === 'string' ? parsePosition(position) : null,
      identity,
      ends: decodeOffsets(ends),
      retired: Array.isArray(retired) ? retired : [],
      copyStart: decodeOffsets(copyStart),
      copyLsn: copyLsn ? parseLsn(copyLsn) : null,
    };
  } catch {
    return null;
  }
}

// Numbers are exact up to 2^53 records in one partition.
function encodeOffsets(offsets: ReadonlyMap<string, readonly bigint[]>): Record<string, number[]> {
  return Object.fromEntries([...offsets].map(([topic, list]) => [topic, list.map(Number)]));
}

function decodeOffsets(json: Record<string, number[]> | undefined): Map<string, bigint[]> {
  return new Map(Object.entries(json ?? {}).map(([topic, list]) => [topic, list.map(BigInt)]));
}
