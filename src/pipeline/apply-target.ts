import type { SourceConfig } from '../config/schema.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import { slotSide, withSession } from '../postgres/session.ts';
import { readSlot, walPosition } from '../postgres/slot.ts';
import type { Applier } from './applier.ts';

/** What "caught up" means without a capture in this process: the end of WAL, or what was published where none runs that could publish more. */
export async function applyTarget(source: SourceConfig, appliers: readonly Applier[], log: Log): Promise<Lsn> {
  const end = await withSession(source, 'control', async (client) => {
    const { inserted } = await walPosition(client);
    const slot = await withSession(slotSide(source), 'control', (other) => readSlot(other, source.slot));
    return slot?.active ? inserted : null;
  });
  if (end !== null) return end;
  let target: Lsn = 0n;
  for (const { subscription } of appliers) {
    const published = subscription.publishedLsn();
    if (published > target) target = published;
  }
  log.info({ target: formatLsn(target) }, 'no capture is running: catching up with what it has published');
  return target;
}
