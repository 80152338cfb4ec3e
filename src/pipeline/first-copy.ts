import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { messageOf } from '../errors.ts';
import type { Batch } from '../event/batch.ts';
import { ROW_GROUP } from '../event/copied-rows.ts';
import { formatLsn } from '../event/lsn.ts';
import { failpoint } from '../failpoint.ts';
import type { Log } from '../log.ts';
import {
  markCopying,
  markCreated,
  markStreaming,
  readSlotRecord,
  type SlotRecord,
  saveTables,
} from '../postgres/control.ts';
import { ddlCaptureState, describePublished } from '../postgres/ddl-capture.ts';
import { forgetMarks } from '../postgres/positions.ts';
import type { PublishedTable } from '../postgres/publication.ts';
import { connectSource, slotSide, withSession } from '../postgres/session.ts';
import { lockSetup, movedOn, setupInUse, unlockSetup } from '../postgres/setup-lock.ts';
import { dropSlot, readSlot } from '../postgres/slot.ts';
import { createSlot } from '../postgres/slot-creation.ts';
import { voidSnapshots } from '../postgres/snapshots.ts';
import type { Gather } from '../snapshot/gathering.ts';
import { InitialSnapshot } from '../snapshot/initial.ts';
import type { SnapshotProgress } from '../snapshot/snapshot.ts';
import { checkReadable } from '../snapshot/table-shape.ts';
import type { TableKeeper } from './captured-tables.ts';

export interface FirstCopyOptions {
  readonly config: Config;
  readonly log: Log;
  readonly tables: readonly PublishedTable[];
  readonly keeper: TableKeeper;
  /** There is a slot of before, which is to go. */
  readonly dropSlot: boolean;
  /** What was recorded of the slot when that was decided. */
  readonly seen: SlotRecord | null;
  /** Sinks may hold rows of an older slot: cut short, this copy counts for nothing, and the next start makes it anew. */
  readonly again: boolean;
  readonly onProgress: (progress: SnapshotProgress) => void;
  /** Resolves when there is room for more. */
  publish(batch: Batch, durable: (() => void) | null): Promise<void>;
  /** Resolves once all that was published is durable. */
  durable(): Promise<void>;
}

/**
 * Makes the slot and publishes every row as of its beginning. A table whose rows are durable is recorded at once, so that
 * a crash costs no more than what was under way: the next start streams from the slot and fills the rest (unless `again`).
 */
export async function firstCopy(options: FirstCopyOptions, signal: AbortSignal): Promise<void> {
  const { config, log, tables, keeper } = options;
  const { slot, slotCreateWaitMs: waitMs } = config.source;
  // Before there is a slot: a start that is refused leaves nothing behind.
  checkReadable(...tables);
  const elsewhere = config.source.primaryUrl !== undefined;
  const control = await connectSource(config.source, 'control');
  const watcher = elsewhere ? await connectSource(slotSide(config.source), 'control') : control;
  const replication = await connectSource(slotSide(config.source), '', { replication: true });
  try {
    await lockSetup(control, slot);
    await checkUntouched(control, watcher, options);
    await markCopying(control, slot);
    await forgetMarks(control, slot);
    await voidSnapshots(control, slot);
    if (options.dropSlot) await withSession(slotSide(config.source), 'control', (client) => dropSlot(client, slot));
    failpoint('before-slot');
    const { consistentPoint, snapshotName } = await createSlot(
      replication,
      watcher,
      { name: slot, waitMs, snapshot: 'export', failover: config.source.failover, primary: elsewhere ? control : null },
      log,
    );
    failpoint('after-slot');
    // Streaming from here into tables that are not filled again would skip what lies between the two slots.
    if (!options.again) await markCreated(control, slot, consistentPoint);
    await saveTables(control, slot, keeper.captured.values());
    await describeTables(control, slot, log);
    log.info(
      { slot, consistentPoint: formatLsn(consistentPoint), tables: tables.length },
      'slot created; copying existing rows',
    );
    const recorded: Promise<void>[] = [];
    const snapshot = new InitialSnapshot({
      tables,
      consistentPoint,
      snapshotName: snapshotName!,
      workers: config.snapshot.workers,
      gather: gatherOf(config),
      log,
      connect: () => connectSource(slotSide(config.source), 'copy'),
      publish: options.publish,
      onCompleted: ({ oid }) => {
        const filled = keeper.filled(oid);
        // Looked at once all is copied.
        filled.catch(() => {});
        recorded.push(filled);
      },
      onProgress: options.onProgress,
    });
    await snapshot.run(signal);
    if (signal.aborted) return;
    await options.publish({ events: [], bytes: 0, commitEndLsn: consistentPoint }, null);
    await options.durable();
    if (signal.aborted) return;
    await Promise.all(recorded);
    await markCreated(control, slot, consistentPoint);
    await markStreaming(control, slot);
    log.info({ slot }, 'every existing row is copied');
  } finally {
    await replication.end().catch(() => {});
    if (elsewhere) await watcher.end().catch(() => {});
    await unlockSetup(control, slot);
  }
}

/** Between the look at the slot and the lock, another process may have made it: what that has copied is not copied again. */
async function checkUntouched(
  control: pg.Client,
  watcher: pg.Client,
  { config, dropSlot, seen }: FirstCopyOptions,
): Promise<void> {
  const { slot } = config.source;
  const made = !dropSlot && (await readSlot(watcher, slot)) !== null;
  if (made || movedOn(seen, await readSlotRecord(control, slot)))
    throw setupInUse(slot, 'another process has made it just now');
}

/** A trigger that was there before the slot has told of the tables too early: so they are described once more. */
async function describeTables(control: pg.Client, slot: string, log: Log): Promise<void> {
  try {
    if ((await ddlCaptureState(control)) === 'current') await describePublished(control);
  } catch (error) {
    log.warn({ slot }, `the schema history begins with the first change of each table: ${messageOf(error)}`);
  }
}

/** Kafka takes rows one by one, and holds more of memory for each: there they are published as they come. */
function gatherOf({ transport }: Config): Gather | null {
  if (transport.type !== 'in-process') return null;
  return { rowsMax: ROW_GROUP, weightMax: Math.floor(transport.inFlightBytesMax / 2) };
}
