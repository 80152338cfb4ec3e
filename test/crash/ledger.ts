import pg from 'pg';
import { SNAPSHOT_MESSAGE } from '../../src/event/change-event.ts';
import type { Entry } from './append-sink.ts';

/** How often each row (by its key, or whole where there is none) is there. */
type Rows = Map<string, number>;

interface Table {
  columns: readonly string[];
  /** Null until a first snapshot is completed. */
  live: Rows | null;
  filling: { readonly snapshot: string; readonly rows: Rows } | null;
  /** Snapshots that have ended: a process that died before it had noted so sends the last rows again, and nobody takes them. */
  readonly ended: Set<string>;
  /**
   * Changes of rows that are not there. TRUNCATE empties a table for older snapshots too, so a copy may lack rows of
   * before a truncate that follows in the stream; then they are no fault.
   */
  absent: string[];
}

/**
 * Adds up what an append-only sink was given, as strictly as the contract allows: a position that comes twice, an
 * insert of a row that is there, a change of one that is not. Returns the faults in words, and what the tables hold.
 */
export function addUp(entries: readonly Entry[]): { faults: string[]; tables: Map<string, Table> } {
  const faults: string[] = [];
  const tables = new Map<string, Table>();
  const seen = new Set<string>();
  for (const entry of entries) {
    if (entry.table === '') continue;
    // Through Kafka a change of a key is a delete and an insert of one position.
    const id = `${entry.op} ${entry.table} ${entry.position}`;
    if (seen.has(id)) faults.push(`repeated: ${id}`);
    seen.add(id);
    const table = tables.get(entry.table) ?? {
      columns: entry.columns,
      live: null,
      filling: null,
      ended: new Set(),
      absent: [],
    };
    tables.set(entry.table, table);
    table.columns = entry.columns;
    take(table, entry, (fault) => faults.push(`${fault}: ${id} ${JSON.stringify(entry)}`));
  }
  for (const { absent } of tables.values()) faults.push(...absent);
  return { faults, tables };
}

function take(table: Table, entry: Entry, fault: (what: string) => void): void {
  if (entry.op === 'm') endOfSnapshot(table, entry);
  else if (entry.snapshot !== null) ofSnapshot(table, entry, fault);
  else {
    if (entry.op === 't') table.absent = [];
    const absent = (): unknown => table.absent.push(`change of a row that is not there: ${JSON.stringify(entry)}`);
    if (table.live) change(table.live, entry, { absent, there: () => fault('a row that is already there') });
    // Rows of keys that are not copied yet may be absent beside what is live, and nothing more is known of them.
    if (table.filling) change(table.filling.rows, entry, null);
  }
}

function ofSnapshot(table: Table, entry: Entry, fault: (what: string) => void): void {
  const [kind] = entry.snapshot!.split(' ');
  if (entry.op === 't') {
    table.ended.delete(entry.snapshot!);
    table.filling = { snapshot: entry.snapshot!, rows: new Map() };
    return;
  }
  if (kind === 'partial') {
    table.live?.set(JSON.stringify(entry.after), 1);
    return;
  }
  if (table.ended.has(entry.snapshot!)) return;
  if (table.filling?.snapshot !== entry.snapshot) {
    fault('row of a snapshot that has not begun');
    return;
  }
  const row = JSON.stringify(entry.after);
  const there = table.filling.rows.get(row) ?? 0;
  if (kind === 'initial' && entry.keyed && there > 0) fault('copied twice');
  table.filling.rows.set(row, entry.keyed ? 1 : there + 1);
}

function endOfSnapshot(table: Table, entry: Entry): void {
  if (!entry.message?.startsWith(`${SNAPSHOT_MESSAGE} `) || table.filling?.snapshot !== entry.snapshot) return;
  const { phase } = JSON.parse(entry.message.slice(SNAPSHOT_MESSAGE.length)) as { phase: string };
  if (phase === 'completed') table.live = table.filling.rows;
  table.ended.add(entry.snapshot!);
  table.filling = null;
}

/** `fault` null = leniently. */
function change(rows: Rows, entry: Entry, fault: { absent(): unknown; there(): unknown } | null): void {
  if (entry.op === 't') {
    rows.clear();
    return;
  }
  const before = entry.before ?? (entry.op === 'u' ? entry.after : null);
  if (entry.op !== 'c') {
    const row = JSON.stringify(before);
    const there = rows.get(row) ?? 0;
    if (there === 0) fault?.absent();
    if (there > 1) rows.set(row, there - 1);
    else rows.delete(row);
  }
  if (entry.op === 'd') return;
  const row = JSON.stringify(entry.after);
  const there = rows.get(row) ?? 0;
  if (there > 0 && entry.keyed) fault?.there();
  rows.set(row, entry.keyed ? 1 : there + 1);
}

/** Faults of the ledger itself, and where it differs from the source. Empty when every change came exactly once. */
export async function ledgerFaults(
  entries: readonly Entry[],
  url: string,
  wanted: readonly string[],
): Promise<string[]> {
  const { faults, tables } = addUp(entries);
  const client = new pg.Client(url);
  await client.connect();
  try {
    for (const name of wanted) {
      const table = tables.get(name);
      const quoted = name
        .split('.')
        .map((part) => client.escapeIdentifier(part))
        .join('.');
      const columns = (table?.columns ?? []).map((column) => `${client.escapeIdentifier(column)}::text`).join(', ');
      const { rows } = await client.query<unknown[]>({ text: `SELECT ${columns} FROM ${quoted}`, rowMode: 'array' });
      const left = new Map(table?.live);
      for (const row of rows.map((values) => JSON.stringify(values))) {
        const there = left.get(row) ?? 0;
        if (there === 0) faults.push(`${name}: never came, or was deleted by mistake: ${row.slice(0, 200)}`);
        left.set(row, there - 1);
      }
      for (const [row, count] of left) if (count > 0) faults.push(`${name}: too many: ${row.slice(0, 200)}`);
    }
  } finally {
    await client.end();
  }
  return faults.slice(0, 20);
}
