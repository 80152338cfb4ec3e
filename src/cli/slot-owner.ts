import type pg from 'pg';
import { findProcesses } from '../api/control-client.ts';
import type { Config } from '../config/schema.ts';
import { listSlotRecords, type SlotRecord } from '../postgres/control.ts';
import { withSession } from '../postgres/session.ts';
import { listSlots, type SlotInfo, slotLost } from '../postgres/slot.ts';
import { TAIL_SLOT_PREFIX } from '../source/temporary-slot.ts';

export interface OwnedSlot {
  readonly slot: SlotInfo;
  /** this configuration's, another one that Waltide made (in whatever database), of a `waltide tail`, or someone else's. */
  readonly owner: 'this' | 'waltide' | 'tail' | 'other';
  /** What is recorded of it. */
  readonly state: SlotRecord['state'] | null;
  /** Ours, and nobody uses it: WAL is retained for nothing. */
  readonly orphan: boolean;
  /** What should be known of it, in words; null where all is as it should be. */
  readonly note: string | null;
  /** The command that drops it, where that may be wanted. */
  readonly drop: string | null;
}

/** Another database is asked what it knows of its slots; one that cannot be is passed over soon. */
const OTHER_DATABASE_TIMEOUT_MS = 3000;

/** Every logical slot of the server with whose it is, and the names of records in this database whose slot is gone. */
export async function listOwned(client: pg.Client, config: Config): Promise<{ slots: OwnedSlot[]; records: string[] }> {
  const slots = await listSlots(client);
  const { rows } = await client.query<{ database: string }>('SELECT pg_catalog.current_database() AS database');
  const here = rows[0]!.database;
  const records = new Map([[here, await listSlotRecords(client)]]);
  for (const { database, plugin } of slots)
    if (database !== null && plugin === 'pgoutput' && !records.has(database))
      records.set(database, await recordsOf(database, config));
  const { running } = await findProcesses(config.stateDir, config.source.slot);
  const runs = running.length > 0;
  return {
    slots: slots.map((slot) =>
      judge(slot, records.get(slot.database ?? '')?.get(slot.name) ?? null, config, here, runs),
    ),
    records: [...records.get(here)!.keys()].filter((name) => !slots.some((slot) => slot.name === name)),
  };
}

async function recordsOf(database: string, { source }: Config): Promise<Map<string, SlotRecord>> {
  const url = new URL(source.url);
  url.pathname = `/${encodeURIComponent(database)}`;
  try {
    const connectTimeoutMs = Math.min(source.connectTimeoutMs, OTHER_DATABASE_TIMEOUT_MS);
    return await withSession({ ...source, url: url.href, connectTimeoutMs }, 'slot', listSlotRecords);
  } catch {
    // Not ours to look into: then the slot counts as someone else's.
    return new Map();
  }
}

function judge(slot: SlotInfo, record: SlotRecord | null, config: Config, here: string, runs: boolean): OwnedSlot {
  const { name } = slot;
  const made = { slot, state: record?.state ?? null, orphan: false, note: null, drop: null };
  if (slot.temporary && name.startsWith(TAIL_SLOT_PREFIX))
    return {
      ...made,
      owner: 'tail',
      note: `of a \`waltide tail\`, and ends with it (server process ${slot.activePid}); if that hangs: SELECT pg_terminate_backend(${slot.activePid})`,
    };
  const mine = name === config.source.slot;
  const force = slot.database === here ? '' : ' --force';
  const drop = `waltide slot drop ${name}${force}`;
  if (mine && slot.database !== here)
    return {
      ...made,
      owner: record ? 'waltide' : 'other',
      note: `has the name of this configuration's slot, but belongs to database "${slot.database}": choose another source.slot for "${here}"`,
    };
  if (slot.invalidation !== null && (mine || record)) {
    const { message } = slotLost(name, slot.invalidation);
    return { ...made, owner: mine ? 'this' : 'waltide', orphan: !mine, note: message, drop: mine ? null : drop };
  }
  if (mine && !record)
    return {
      ...made,
      owner: 'this',
      note: 'is not recorded in schema "waltide": Waltide has not made it, or the schema was dropped',
      drop: `${drop} --force`.replace(' --force --force', ' --force'),
    };
  if (mine && !slot.active && !runs)
    return { ...made, owner: 'this', note: `nobody reads it${since(slot)}; \`waltide run\` does`, drop };
  if (mine) return { ...made, owner: 'this' };
  if (!record) return { ...made, owner: 'other' };
  if (slot.active) return { ...made, owner: 'waltide' };
  return {
    ...made,
    owner: 'waltide',
    orphan: true,
    note: `nobody uses it${since(slot)}: of a configuration that is gone, or of one that is stopped`,
    drop,
  };
}

function since({ inactiveSince }: SlotInfo): string {
  return inactiveSince === null ? '' : ` since ${inactiveSince.toISOString()}`;
}
