import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import type { SourceIdentity } from '../event/offset.ts';
import { readSlotRecord, type SlotRecord } from '../postgres/control.ts';
import { slotGone } from '../postgres/failover.ts';
import { checkOwner, readSlot, type SlotInfo, slotForeign } from '../postgres/slot.ts';

export interface SlotLook {
  readonly slot: SlotInfo | null;
  /** What is recorded of it. */
  readonly record: SlotRecord | null;
}

/**
 * The slot as it is now. Rejects where it is not ours to use, or is gone with changes that nobody has; `recopy`: only where it is not
 * ours to drop.
 */
export async function lookAtSlot(
  client: pg.Client,
  control: pg.Client,
  { slot: name, failover }: SourceConfig,
  identity: SourceIdentity,
  recopy: boolean,
): Promise<SlotLook> {
  const record = await readSlotRecord(control, name);
  const slot = (await readSlot(client, name)) ?? null;
  if (slot) checkOwner(slot, identity.database);
  if (!slot && record?.state === 'streaming' && !recopy) throw slotGone(name, identity, failover);
  if (slot && !record && !recopy) throw slotForeign(name);
  return { slot, record };
}
