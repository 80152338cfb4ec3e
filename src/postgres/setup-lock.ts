import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import type { SlotRecord } from './control.ts';

const RETRY_MS = 200;

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
    if (performance.now() >= deadline) throw setupInUse(slot, 'another process is making it, and copies every table');
    await sleep(RETRY_MS);
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
