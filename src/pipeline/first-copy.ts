import type pg from 'pg';
import type { Config, SourceConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { Batch } from '../event/batch.ts';
import { formatLsn } from '../event/lsn.ts';
import { failpoint } from '../failpoint.ts';
import type { Log } from '../log.ts';
import { markCopying, markCreated, markStreaming, saveTables } from '../postgres/control.ts';
import { forgetMarks } from '../postgres/positions.ts';
import type { PublishedTable } from '../postgres/publication.ts';
import { connectSource, slotSide, withSession } from '../postgres/session.ts';
import { dropSlot, readSlot } from '../postgres/slot.ts';
import { createSlot } from '../postgres/slot-creation.ts';
import { voidSnapshots } from '../postgres/snapshots.ts';
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
    if (!options.dropSlot) await checkStillMissing(config.source);
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
    await control.end().catch(() => {});
  }
}

/** Until the session ends, no other process makes this slot. */
async function lockSetup(control: pg.Client, slot: string): Promise<void> {
  const { rows } = await control.query<{ locked: boolean }>(
    "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext('waltide set-up'), pg_catalog.hashtext($1)) AS locked",
    [slot],
  );
  if (!rows[0]!.locked) throw inUse(slot, 'another process is making it, and copies every table');
}

/** Between looking for the slot and the lock another process may have made it. */
async function checkStillMissing(source: SourceConfig): Promise<void> {
  const found = await withSession(slotSide(source), 'control', (client) => readSlot(client, source.slot));
  if (found) throw inUse(source.slot, 'another process has made it just now');
}

function inUse(slot: string, why: string): WaltideError {
  return new WaltideError(
    'SLOT_IN_USE',
    `slot "${slot}": ${why}`,
    'One process captures a slot: let the other one do it, or give this one its own source.slot and source.publication.',
  );
}
