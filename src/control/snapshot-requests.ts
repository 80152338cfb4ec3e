import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { CapturedTable } from '../postgres/captured.ts';
import { readSlotRecord } from '../postgres/control.ts';
import { matchesPattern } from '../postgres/publication.ts';
import { listSnapshots, requestSnapshot } from '../postgres/snapshots.ts';
import { checkWhere, describeTable } from '../snapshot/table-shape.ts';

/** Snapshots that somebody wants; see `waltide snapshot start`. */
export interface SnapshotsWanted {
  /** Names or patterns of tables; schema public may be left out. */
  readonly patterns: readonly string[];
  /** Null for all. */
  readonly sinks: readonly string[] | null;
  /** Refreshes the rows that meet this condition in place; null replaces the table. */
  readonly where: string | null;
  readonly rowsPerSecondMax: number | null;
  /** Most rows of a chunk; null for snapshot.chunkRows. */
  readonly chunkRows?: number | null;
  /** Why, in words. */
  readonly reason: string;
}

/**
 * Checks everything, then asks for a snapshot of each table. Resolves with their ids. Rejects, having asked for nothing,
 * with USAGE, TABLES or SLOT_MISSING where one of them cannot work or is under way.
 */
export async function requestSnapshots(client: pg.Client, config: Config, wanted: SnapshotsWanted): Promise<string[]> {
  const { sinks, where, rowsPerSecondMax, chunkRows = null, reason } = wanted;
  const { slot } = config.source;
  const tables = await checkSnapshots(client, config, wanted);
  const kind = where === null ? 'incremental' : 'partial';
  const ids: string[] = [];
  for (const table of tables) {
    const options = { kind, sinks, where, rowsPerSecondMax, chunkRows, reason } as const;
    const id = await requestSnapshot(client, { slot, table, ...options });
    if (id === null) throw already(table);
    ids.push(id);
  }
  return ids;
}

/** The tables that are meant. Rejects as `requestSnapshots` does. */
export async function checkSnapshots(
  client: pg.Client,
  config: Config,
  wanted: SnapshotsWanted,
): Promise<CapturedTable[]> {
  checkSinks(config, wanted.sinks ?? []);
  const tables = await choose(client, config, wanted.patterns);
  for (const table of tables) await check(client, config, table, wanted);
  const active = await listSnapshots(client, config.source.slot, true);
  const busy = tables.find((table) => active.some(({ tableOid }) => tableOid === table.oid));
  if (busy) throw already(busy);
  return tables;
}

function already(table: CapturedTable): WaltideError {
  return new WaltideError(
    'USAGE',
    `a snapshot of ${nameOf(table)} is under way already`,
    'See `waltide snapshot list`; `waltide snapshot cancel` ends it.',
  );
}

const nameOf = ({ schema, table }: { readonly schema: string; readonly table: string }): string => `${schema}.${table}`;

/** Whether `schema.table`, a pattern as in source.tables, or the name of a table of schema public means this table. */
export function namesTable(
  pattern: string,
  { schema, table }: { readonly schema: string; readonly table: string },
): boolean {
  return matchesPattern(pattern.includes('.') ? pattern : `public.${pattern}`, schema, table);
}

function checkSinks(config: Config, sinks: readonly string[]): void {
  const known = config.sinks.map(({ name }) => name);
  const unknown = sinks.find((sink) => !known.includes(sink));
  if (unknown !== undefined)
    throw new WaltideError(
      'USAGE',
      `there is no sink "${unknown}"`,
      `Sinks of the configuration: ${known.join(', ') || 'none'}.`,
    );
}

/** Tables that are captured, and so can be read again. */
async function choose(client: pg.Client, config: Config, patterns: readonly string[]): Promise<CapturedTable[]> {
  const record = await readSlotRecord(client, config.source.slot);
  if (!record)
    throw new WaltideError(
      'SLOT_MISSING',
      `slot "${config.source.slot}" has not been made yet, so nothing is captured`,
      'Run `waltide run` or `waltide setup`: the first copy reads every table.',
    );
  const captured = record.tables.filter(({ leftLsn }) => leftLsn === null);
  const chosen = new Map<number, CapturedTable>();
  for (const pattern of patterns) {
    const found = captured.filter((table) => namesTable(pattern, table));
    if (found.length === 0) throw await notCaptured(client, pattern, captured);
    for (const table of found) chosen.set(table.oid, table);
  }
  return [...chosen.values()];
}

async function notCaptured(
  client: pg.Client,
  pattern: string,
  captured: readonly CapturedTable[],
): Promise<WaltideError> {
  const full = pattern.includes('.') ? pattern : `public.${pattern}`;
  const { rows } = await client.query<{ schema: string; table: string }>(
    `SELECT nspname AS schema, relname AS table FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p')`,
  );
  const exists = rows.some(({ schema, table }) => matchesPattern(full, schema, table));
  return new WaltideError(
    'TABLES',
    exists ? `table ${full} is not captured` : `table ${full} does not exist`,
    exists
      ? 'Let source.tables name it, and see with `waltide publication show` why it may be left out; a running process takes it in by itself.'
      : `Captured are: ${captured.map(nameOf).slice(0, 20).join(', ') || 'none'}.`,
  );
}

/** What would make it fail later is said now. */
async function check(
  client: pg.Client,
  config: Config,
  table: CapturedTable,
  { where, rowsPerSecondMax }: Pick<SnapshotsWanted, 'where' | 'rowsPerSecondMax'>,
): Promise<void> {
  const { publication } = config.source;
  const shape = await describeTable(client, [publication, `${publication}_inserts`], table);
  if (shape.key.length === 0 && rowsPerSecondMax !== null)
    throw new WaltideError(
      'USAGE',
      `table ${nameOf(table)} has no key, so it is read in one piece, for which the stream of all tables waits`,
      'Start it without a bound (--rows-per-second-max): slowed down, it would hold up everything for longer.',
    );
  if (where === null) return;
  if (shape.key.length === 0)
    throw new WaltideError(
      'USAGE',
      `table ${nameOf(table)} has no key, so a part of its rows cannot be refreshed`,
      'Start it without a condition (--where): the whole table is read.',
    );
  await checkWhere(client, shape, where);
}
