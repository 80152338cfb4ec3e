import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import { queryError } from './connection.ts';
import type { SlotRecord } from './control.ts';
import { END_LOST_SESSION, KEEPALIVE, processIdOf } from './lost-session.ts';
import { waitUntilReleased } from './slot.ts';

const RETRY_MS = 200;

/** The session that holds the lock says nothing while rows are copied, and lasts as long as its process. */
const LASTING = `${KEEPALIVE};
  SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout'`;

/** By slot, the server process of the last session of this process that had its lock, and has been given up. */
const left = new Map<string, number>();

/**
 * Until the session of `control` ends, no other process makes this slot. Rejects with SLOT_IN_USE where another one is still at it
 * after `waitMs`; `done` may end the wait before: then nothing is locked, and the result is false.
 */
export async function lockSetup(
  control: pg.Client,
  slot: string,
  waitMs = 0,
  done: () => Promise<boolean> = async () => false,
): Promise<boolean> {
  const deadline = performance.now() + waitMs;
  await control.query(LASTING);
  for (;;) {
    const { rows } = await control.query<{ locked: boolean }>(
      "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext('waltide set-up'), pg_catalog.hashtext($1)) AS locked",
      [slot],
    );
    if (rows[0]!.locked) return true;
    if (await done()) return false;
    if (performance.now() >= deadline) throw copiedElsewhere(slot, await setupHolder(control, slot));
    await sleep(RETRY_MS);
  }
}

export interface FreeOptions {
  /** Also from whoever still copies what the slot begins with: that one does not hold the slot meanwhile, and may stream next. */
  readonly made: boolean;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/**
 * Resolves once no other process uses the slot. Rejects with SLOT_IN_USE where one still does after `slotWaitMs`. Takes nothing itself.
 * `client` is a session on the slot's server.
 */
export async function waitUntilFree(
  client: pg.Client,
  control: pg.Client,
  { slot, slotWaitMs }: Pick<SourceConfig, 'slot' | 'slotWaitMs'>,
  { made, log, signal }: FreeOptions,
): Promise<void> {
  await waitUntilReleased(client, slot, slotWaitMs, log, signal);
  const deadline = performance.now() + slotWaitMs;
  for (let waited = false; made; waited = true) {
    const pid = await setupHolder(control, slot);
    if (pid === null) return waited ? waitUntilReleased(client, slot, slotWaitMs, log, signal) : undefined;
    if (pid === left.get(slot)) await control.query(END_LOST_SESSION, [pid]).catch(rethrow);
    if (performance.now() >= deadline) throw copiedElsewhere(slot, pid);
    if (!waited)
      log.warn({ slot, pid, waitMs: slotWaitMs }, 'another process copies what the slot begins with; waiting');
    await sleep(RETRY_MS, undefined, { signal });
  }
}

/** Ends the session that has the lock. Never rejects. */
export async function unlockSetup(control: pg.Client, slot: string): Promise<void> {
  const pid = processIdOf(control);
  if (pid !== null) left.set(slot, pid);
  await control.end().catch(() => {});
}

/** The server process of the session that holds the lock; null where none does. */
async function setupHolder(control: pg.Client, slot: string): Promise<number | null> {
  const { rows } = await control
    .query<{ pid: number }>(
      `SELECT l.pid FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
        WHERE d.datname = pg_catalog.current_database() AND l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
          AND l.classid = (pg_catalog.hashtext('waltide set-up')::bigint & 4294967295)::oid
          AND l.objid = (pg_catalog.hashtext($1)::bigint & 4294967295)::oid`,
      [slot],
    )
    .catch(rethrow);
  return rows[0]?.pid ?? null;
}

function rethrow(error: unknown): never {
  throw queryError(error, 'looking for another process that makes the slot');
}

function copiedElsewhere(slot: string, pid: number | null): WaltideError {
  const who = pid === null ? '' : ` (pid ${pid} on the server)`;
  return setupInUse(slot, `another process${who} is making it, and copies every table`);
}

export function setupInUse(slot: string, why: string): WaltideError {
  return new WaltideError(
    'SLOT_IN_USE',
    `slot "${slot}": ${why}`,
    'One process captures a slot: let the other one do it, or give this one its own source.slot and source.publication.',
  );
}

/** True where another process has taken the slot further since `seen` was read. */
export function movedOn(seen: SlotRecord | null, now: SlotRecord | null): boolean {
  return seen?.state !== now?.state || seen?.consistentPoint !== now?.consistentPoint;
}
