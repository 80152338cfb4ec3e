import type pg from 'pg';
import type { Config, SourceConfig } from '../config/schema.ts';
import { failpoint } from '../failpoint.ts';
import type { Log } from '../log.ts';
import { markPrepared, migrate, readSlotRecord } from '../postgres/control.ts';
import { checkEndpoint } from '../postgres/endpoint.ts';
import { checkFailoverVersion, slotGone } from '../postgres/failover.ts';
import { identify } from '../postgres/identity.ts';
import { type EnsuredPublication, ensurePublication } from '../postgres/publication.ts';
import { checkServer, checkSettings, readServer } from '../postgres/server.ts';
import { connectSource, slotSide, withSession } from '../postgres/session.ts';
import { lockSetup } from '../postgres/setup-lock.ts';
import { checkOwner, checkSlot, readSlot, type SlotInfo, slotForeign } from '../postgres/slot.ts';
import { createSlot } from '../postgres/slot-creation.ts';
import { createSink } from '../sink/registry.ts';

export interface SetUpSource {
  readonly publication: EnsuredPublication;
  /** prepared: it is there, and existing rows are still to be copied. made: so, and by this call. used: a pipeline has begun with it. */
  readonly slot: 'made' | 'prepared' | 'used';
}

/**
 * The control schema, the publication and the slot, and nothing that reads a row. Of processes that do it at once, one makes each;
 * the others find it. Rejects as the start of a pipeline does.
 */
export function setUpSource({ source }: Config, log: Log): Promise<SetUpSource> {
  return withSession(source, 'setup', (control) =>
    withSession(slotSide(source), 'setup', async (client) => {
      const server = await readServer(client);
      checkServer(server);
      await checkSettings(client);
      await checkEndpoint(source, client, control);
      checkFailoverVersion(source.failover, server.version);
      await migrate(control);
      const streaming = (await readSlotRecord(control, source.slot))?.state === 'streaming';
      const warn = (fields: object, message: string): void => log.warn(fields, message);
      const publication = await ensurePublication(control, source, warn, streaming);
      return { publication, slot: await setUpSlot(source, client, control, log) };
    }),
  );
}

async function setUpSlot(
  source: SourceConfig,
  client: pg.Client,
  control: pg.Client,
  log: Log,
): Promise<SetUpSource['slot']> {
  const { slot: name, slotCreateWaitMs: waitMs } = source;
  const identity = await identify(client, name);
  const there = async (): Promise<SetUpSource['slot'] | null> => {
    const slot = await readSlot(client, name);
    const record = await readSlotRecord(control, name);
    if (slot) return usable(slot, record?.state ?? null, identity.database);
    if (record?.state === 'streaming') throw slotGone(name, identity, source.failover);
    return null;
  };
  const found = await there();
  if (found) return found;
  if (!(await lockSetup(control, name, waitMs, async () => (await there()) !== null))) return (await there())!;
  const replication = await connectSource(slotSide(source), '', { replication: true });
  try {
    const since = await there();
    if (since) return since;
    await markPrepared(control, name);
    failpoint('before-slot');
    const primary = source.primaryUrl === undefined ? null : control;
    await createSlot(replication, client, { name, waitMs, snapshot: 'none', failover: source.failover, primary }, log);
    failpoint('after-slot');
    return 'made';
  } finally {
    await replication.end().catch(() => {});
  }
}

function usable(slot: SlotInfo, state: string | null, database: string): SetUpSource['slot'] {
  checkOwner(slot, database);
  if (state === null) throw slotForeign(slot.name);
  checkSlot(slot, database);
  return state === 'prepared' ? 'prepared' : 'used';
}

/** Makes the sink's store with its bookkeeping, or finds that it follows this source. Rejects as the sink does. */
export async function setUpSink(config: Config['sinks'][number], { source }: Config, log: Log): Promise<void> {
  const identity = await withSession(slotSide(source), 'setup', (client) => identify(client, source.slot));
  const sink = await createSink(config, log);
  try {
    await sink.open(identity);
  } finally {
    await sink.close();
  }
}
