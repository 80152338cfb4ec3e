import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import type { CapturedTable } from '../postgres/captured.ts';
import { readSlotRecord } from '../postgres/control.ts';
import { withSession } from '../postgres/session.ts';
import { listSnapshots, requestSnapshot } from '../postgres/snapshots.ts';
import type { SinkState } from '../sink/sink.ts';
import type { Capture } from './capture.ts';

/**
 * Tables whose rows a sink lacks though everyone was given them: it is new, its file was deleted, or it was away. Stopped
 * ones wait for a person. `active`: ids of snapshots that have not ended.
 */
export function lackingTables(
  state: SinkState,
  captured: readonly CapturedTable[],
  active: ReadonlySet<string>,
): CapturedTable[] {
  const same =
    (a: { oid: number; schema: string; table: string }) => (b: { oid?: number; schema: string; table: string }) =>
      b.oid ? a.oid === b.oid : a.schema === b.schema && a.table === b.table;
  return captured.filter((table) => {
    if (!table.filled || table.leftLsn !== null || state.stopped.some(same(table))) return false;
    if (state.tables === null) return state.offsets.length === 0;
    const known = state.tables.find(same(table));
    return !known?.live && !(known?.filling != null && active.has(known.filling));
  });
}

/** Groups what each sink lacks by table: one snapshot serves them all. */
export function lacksByTable(
  sinks: readonly { readonly name: string; readonly state: SinkState }[],
  captured: readonly CapturedTable[],
  active: ReadonlySet<string>,
): { readonly table: CapturedTable; readonly sinks: string[] }[] {
  const byTable = new Map<number, { table: CapturedTable; sinks: string[] }>();
  for (const { name, state } of sinks)
    for (const table of lackingTables(state, captured, active)) {
      const lack = byTable.get(table.oid) ?? { table, sinks: [] };
      lack.sinks.push(name);
      byTable.set(table.oid, lack);
    }
  return [...byTable.values()];
}

export const NEW_SINK = 'a sink without the table';

/** Where no capture runs in this process: the one that does takes the requests up. */
export async function requestForSinks(
  client: pg.Client,
  slot: string,
  sinks: readonly { readonly name: string; readonly state: SinkState }[],
): Promise<void> {
  const record = await readSlotRecord(client, slot);
  const active = new Set((await listSnapshots(client, slot, true)).map(({ id }) => id));
  for (const { table, sinks: names } of lacksByTable(sinks, record?.tables ?? [], active))
    await requestSnapshot(client, { slot, table, sinks: names, reason: NEW_SINK });
}

/** A sink that is new, or whose store was deleted, is given every table by snapshots of its own. */
export async function fillSinks(
  config: Config,
  capture: Capture | null,
  lacking: readonly { name: string; state: SinkState }[],
): Promise<void> {
  if (lacking.length === 0 || capture?.needsCopy) return;
  const { slot } = config.source;
  await withSession(config.source, 'control', async (client) => {
    if (!capture) return requestForSinks(client, slot, lacking);
    const active = new Set((await listSnapshots(client, slot, true)).map(({ id }) => id));
    for (const { table, sinks } of lacksByTable(lacking, capture.tables.captured.values(), active))
      capture.tables.ask(table.oid, sinks, NEW_SINK);
  });
}
