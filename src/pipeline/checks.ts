import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import { checkTimeline } from '../event/timeline.ts';
import type { Log } from '../log.ts';
import { checkOffset } from '../postgres/slot.ts';
import type { Sink, SinkState } from '../sink/sink.ts';
import type { Capture } from './capture.ts';
import type { Role } from './status.ts';

/** In-process, both ends are one process, and without a sink every change would be acknowledged and thrown away. */
export function checkRole(config: Config, role: Role, ownSinks: number): void {
  const none = config.sinks.length + ownSinks === 0;
  if (config.transport.type === 'in-process' && role !== 'all')
    throw new WaltideError(
      'CONFIG_INVALID',
      `role ${role} needs a transport between processes, and this one is in-process`,
      'Run without --role, or set transport: { type: kafka, … }.',
    );
  if (none && (config.transport.type === 'in-process' || role === 'apply'))
    throw new WaltideError(
      'CONFIG_INVALID',
      'there are no sinks, so changes would go nowhere',
      'Add one: sinks: [{ name: analytics, type: duckdb, path: ./analytics.duckdb }].',
    );
}

/** Rows of the first copy stand 1 before the slot's beginning. */
function standsBefore({ offsets }: SinkState, beganAt: Lsn): boolean {
  return offsets[0] !== undefined && offsets[0].position.commitLsn + 1n < beganAt;
}

/** In-process the slot is the only log there is, so each sink must stand within what it still holds. */
export function checkSinks(capture: Capture, sinks: readonly { sink: Sink; state: SinkState }[], log: Log): void {
  const { beganAt } = capture;
  if (beganAt !== null && sinks.some(({ state }) => standsBefore(state, beganAt))) capture.startOver();
  const slot = capture.confirmed;
  const { flushed, inserted } = capture.wal;
  if (!slot) {
    for (const { sink, state } of sinks) checkCopyIsNewer(sink.name, state.offsets[0]?.position.commitLsn, inserted);
    return;
  }
  for (const { sink, state } of sinks) {
    const offset = state.offsets[0];
    // It is given snapshots of its own.
    if (!offset) continue;
    const at = offset.position.commitLsn;
    if (state.timeline !== undefined)
      checkTimeline(`sink "${sink.name}"`, state.timeline, offset.position, capture.identity!);
    const mark = capture.marks.get(sink.name);
    checkOffset(sink.name, at, slot, flushed, mark);
    if (capture.needFrom === 0n || at < capture.needFrom) capture.needFrom = at;
    if (mark && at < mark.lsn)
      log.warn(
        { sink: sink.name, at: formatLsn(at), was: formatLsn(mark.lsn), when: mark.at.toISOString() },
        'the sink stands before where it was: restored from an older backup? The slot still holds what it lacks; it goes on from there',
      );
  }
}

/** What a sink has seen is told by position: rows of a copy that lies before that would all be taken for seen. */
function checkCopyIsNewer(sink: string, at: Lsn | undefined, inserted: Lsn): void {
  if (at === undefined || at <= inserted) return;
  throw new WaltideError(
    'CLUSTER_MISMATCH',
    `sink "${sink}" stands at ${formatLsn(at)}, beyond the end of the server's WAL at ${formatLsn(inserted)}: rows copied now would count as seen`,
    'The server was restored, or a standby that was behind was promoted. Give the sink a new path, or copy when the server has written as much.',
  );
}

/** A failure after which the pipeline only has to begin again; null for any other. */
export function beginsAgain(failure: unknown): { reason: string } | null {
  return failure instanceof WaltideError && failure.code === 'TIMELINE_CHANGED' ? { reason: failure.message } : null;
}
