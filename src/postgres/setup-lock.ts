import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import type { SlotRecord } from './control.ts';

const RETRY_MS = 200;
const COPIED_ELSEWHERE = 'another process is making it, and copies every table';

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
  for (;;) {
    const { rows } = await control.query<{ locked: boolean }>(
      "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext('waltide set-up'), pg_catalog.hashtext($1)) AS locked",
      [slot],
    );
    if (rows[0]!.locked) return true;
    if (await done()) return false;
    if (performance.now() >= deadline) throw setupInUse(slot, COPIED_ELSEWHERE);
    await sleep(RETRY_MS);
  }
}

/** Resolves once no process makes this slot. Rejects with SLOT_IN_USE where one still does after `waitMs`. Takes no lock itself. */
export async function waitUntilSetUp(
  control: pg.Client,
  slot: string,
  waitMs: number,
  signal: AbortSignal,
): Promise<void> {
  const deadline = performance.now() + waitMs;
  for (;;) {
    const { rows } = await control.query(
      `SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
        WHERE d.datname = pg_catalog.current_database() AND l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
          AND l.classid = (pg_catalog.hashtext('waltide set-up')::bigint & 4294967295)::oid
          AND l.objid = (pg_catalog.hashtext($1)::bigint & 4294967295)::oid`,
      [slot],
    );
    if (rows.length === 0) return;
    if (performance.now() >= deadline) throw setupInUse(slot, COPIED_ELSEWHERE);
    await sleep(RETRY_MS, undefined, { signal });
  }
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
