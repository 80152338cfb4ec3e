import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import type { SourceIdentity } from '../event/offset.ts';
import type { Log } from '../log.ts';
import { queryError } from './connection.ts';
import type { SlotInfo } from './slot.ts';

/** Slots that standbys keep a copy of came with 17. */
export const FAILOVER_VERSION = 170000;

/** Throws where `source.failover` asks for what the server cannot do. */
export function checkFailoverVersion(wanted: boolean, version: number): void {
  if (!wanted || version >= FAILOVER_VERSION) return;
  throw new WaltideError(
    'SOURCE_SETTINGS',
    `source.failover needs PostgreSQL 17 or newer, and the server is ${Math.floor(version / 10_000)}`,
    'Leave source.failover out. After a promotion of a standby the slot is not there, and everything must be copied anew: `waltide run --recopy`.',
  );
}

/** Makes an existing slot one that standbys keep in step, or no longer; nobody may be using it. */
export async function alterFailover(
  slot: SlotInfo,
  wanted: boolean,
  open: () => Promise<pg.Client>,
  log: Log,
): Promise<void> {
  if (slot.failover === wanted) return;
  const replication = await open();
  try {
    await replication.query(`ALTER_REPLICATION_SLOT "${slot.name}" (FAILOVER ${wanted})`);
    log.info({ slot: slot.name, failover: wanted }, 'slot altered');
  } catch (error) {
    throw queryError(error, `altering slot "${slot.name}"`);
  } finally {
    await replication.end().catch(() => {});
  }
}

/** Why a slot that was there before is gone, and what to do. */
export function slotGone(name: string, identity: SourceIdentity, failover: boolean): WaltideError {
  const before = identity.ancestors?.at(-1);
  const promoted = before
    ? ` (the server is on timeline ${identity.timeline}: a standby was promoted at ${before.end}, and it had no copy of the slot)`
    : '';
  const again = failover
    ? 'Check the standby with `waltide doctor`: sync_replication_slots, hot_standby_feedback, primary_slot_name.'
    : 'So that a promotion does not lose it again, set source.failover: true (PostgreSQL 17).';
  return new WaltideError(
    'SLOT_MISSING',
    `slot "${name}" is gone, though its first copy was finished: changes since then are missing${promoted}`,
    `Make a new slot and copy every table anew with \`waltide run --recopy\`.${before ? ` ${again}` : ''}`,
  );
}
