import type pg from 'pg';
import type { Config } from '../../config/schema.ts';
import { WalBudget } from '../../pipeline/budget.ts';
import type { PipelineStatus } from '../../pipeline/status.ts';
import { failedSyncs, goneInstances, openLettersBySink } from '../../postgres/alert-facts.ts';
import { readSlotRecord } from '../../postgres/control.ts';
import { readSlot, readWalUse } from '../../postgres/slot.ts';
import { latestScores } from '../../postgres/validations.ts';
import type { View } from './rule.ts';
import { INSTANCE_GONE } from './rules.ts';

/** Everything that rules look at, as of now. Rejects as queries do. */
export async function takeView(
  client: pg.Client,
  config: Config,
  process: string,
  status: PipelineStatus | null,
): Promise<View> {
  const { slot } = config.source;
  return {
    ...{ config, status, process },
    letters: await openLettersBySink(client, slot),
    scores: await latestScores(client, slot),
    failed: await failedSyncs(client, slot),
    gone: await goneInstances(client, slot, INSTANCE_GONE),
    slot: await slotOf(client, config, status),
  };
}

/** What the pipeline of this process has seen, or else what the server says now. */
async function slotOf(client: pg.Client, { source }: Config, status: PipelineStatus | null): Promise<View['slot']> {
  const { slot: name, walBudget, primaryUrl } = source;
  const streams = status?.state === 'streaming' || status?.state === 'copying';
  if (streams && status.source) return status.source.budget;
  // It is on another server, which the process that captures looks at.
  if (primaryUrl) return null;
  const slot = await readSlot(client, name);
  if (slot) return new WalBudget(walBudget).assess({ atMs: Date.now(), slot, wal: await readWalUse(client) });
  return (await readSlotRecord(client, name))?.state === 'streaming' ? 'missing' : null;
}
