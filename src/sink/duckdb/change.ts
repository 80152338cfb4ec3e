import { RejectedError } from '../../errors.ts';
import type { Column, ColumnType, Relation } from '../../event/relation.ts';
import type { SchemaChange } from '../../event/schema-change.ts';
import { stripDomain } from './mapping.ts';
import { foldName } from './names.ts';
import { evolve, fresh, retyped, type SinkColumn, sameEnum } from './schema.ts';

/** One step on the way from a table's columns to others. Names are as the steps before have left them. */
export type Alteration =
  | { readonly does: 'drop'; readonly name: string }
  | { readonly does: 'rename'; readonly from: string; readonly to: string }
  /** Labels of an enum, old to new; `columns` are all of the table, the one at `index` with its new type. */
  | {
      readonly does: 'relabel';
      readonly columns: readonly SinkColumn[];
      readonly index: number;
      readonly labels: ReadonlyMap<string, string>;
    }
  /** Column by column: other types, and new columns at the end. */
  | { readonly does: 'evolve'; readonly before: readonly SinkColumn[]; readonly after: readonly SinkColumn[] }
  /** What rows that are there hold in a new column. */
  | { readonly does: 'fill'; readonly column: SinkColumn; readonly text: string };

export interface Alterations {
  readonly after: readonly SinkColumn[];
  readonly steps: readonly Alteration[];
}

/**
 * From the columns that a sink holds to those of `relation`, by the numbers of the columns. Throws a RejectedError with
 * `refill` where only the source knows what the rows hold by now.
 */
export function alterationsByNumber(
  columns: readonly SinkColumn[],
  relation: Relation,
  change: SchemaChange,
  keepsDropped: boolean,
): Alterations {
  if (change.rewritten === 'unknown')
    throw lost(relation, `${change.command} changed rows in a way that the WAL does not tell`);
  if (relation.columns.length === 0) return { after: columns.map((column) => ({ ...column, live: false })), steps: [] };
  const found = match(columns, relation);
  if (!found) throw lost(relation, 'its columns cannot be told apart after the change');
  const { kept, places, steps } = moved(columns, relation, found, keepsDropped);
  const typed = retype(kept, places, relation, change);
  const after = [...typed.after];
  const fills: Alteration[] = [];
  relation.columns.forEach((next, i) => {
    if (found[i]! >= 0) return;
    const { existing } = change.columns[i] ?? {};
    if (existing === undefined)
      throw lost(relation, `only the source knows what its rows hold in the new column "${next.name}"`);
    const column = fresh(next, 0);
    after.push(column);
    if (existing !== null) fills.push({ does: 'fill', column, text: existing });
  });
  return {
    after,
    steps: [...steps, ...typed.steps, { does: 'evolve', before: typed.before, after }, ...fills],
  };
}

function lost({ schema, table }: Relation, why: string): RejectedError {
  return new RejectedError(schema, table, `${schema}.${table}: ${why}`, { refill: true });
}

/** Drops what goes and renames what stays. `places`: where each column of the relation is then, -1 for none. */
function moved(
  columns: readonly SinkColumn[],
  relation: Relation,
  found: readonly number[],
  keepsDropped: boolean,
): { kept: SinkColumn[]; places: number[]; steps: Alteration[] } {
  const names = new Set(relation.columns.map(({ name }) => foldName(name)));
  // Columns that the source dropped, and those kept so far whose name is needed again.
  const stays = columns.map(
    (column, i) => found.includes(i) || (!names.has(foldName(column.name)) && (keepsDropped || !column.live)),
  );
  if (!stays.includes(true)) throw lost(relation, 'not one of its columns is left');
  const steps = columns.flatMap(({ name }, i): Alteration[] => (stays[i] ? [] : [{ does: 'drop', name }]));
  steps.push(
    ...renames(relation.columns.flatMap(({ name }, i) => (found[i]! < 0 ? [] : [[columns[found[i]!]!.name, name]]))),
  );
  const kept = columns.flatMap((column, i): SinkColumn[] => {
    const next = relation.columns[found.indexOf(i)];
    if (!stays[i]) return [];
    return [next ? { ...column, name: next.name } : { ...column, live: false }];
  });
  const places = found.map((i) => (i < 0 ? -1 : stays.slice(0, i).filter(Boolean).length));
  return { kept, places, steps };
}

/** Takes over types and labels of the columns that stay. */
function retype(
  kept: readonly SinkColumn[],
  places: readonly number[],
  relation: Relation,
  { rewritten }: SchemaChange,
): { before: SinkColumn[]; after: SinkColumn[]; steps: Alteration[] } {
  const before = [...kept];
  const after = [...kept];
  const steps: Alteration[] = [];
  relation.columns.forEach((next, i) => {
    const at = places[i]!;
    if (at < 0) return;
    const labels = renamedLabels(before[at]!, next);
    if (!labels) throw lost(relation, `labels of the enum in column "${next.name}" are gone`);
    if (labels.size > 0) {
      before[at] = { ...before[at]!, type: next.type, modifier: next.modifier, extraLabels: [] };
      steps.push({ does: 'relabel', columns: [...before], index: at, labels });
    }
    after[at] = retyped(before[at]!, next, relation, rewritten === 'cast');
  });
  return { before, after, steps };
}

/** As pgoutput tells of a table: by the names of its columns. */
export function alterationsByName(columns: readonly SinkColumn[], relation: Relation): Alterations {
  const after = evolve(columns, relation);
  const steps: Alteration[] = [{ does: 'evolve', before: columns, after }];
  const gone = columns.some((column, i) => column.live && !after[i]!.live);
  for (const { name, existing } of relation.columns) {
    if (existing === undefined) continue;
    const index = after.findIndex((column) => column.live && column.name === name);
    const old = columns[index];
    if (old?.live && old.generation === after[index]!.generation) continue;
    if (gone) throw lost(relation, `column "${name}" may be one that had another name`);
    if (existing === 'unknown')
      throw lost(relation, `only the source knows what its rows hold in the new column "${name}"`);
    if (existing.text !== null) steps.push({ does: 'fill', column: after[index]!, text: existing.text });
  }
  return { after, steps };
}

/** For each column of the relation the index of the sink's, -1 for none; null where that cannot be told. */
function match(columns: readonly SinkColumn[], relation: Relation): number[] | null {
  const found = relation.columns.map((next) =>
    columns.findIndex((column) => column.live && column.attnum !== undefined && column.attnum === next.attnum),
  );
  // Columns that the sink took in before anyone told their numbers go by their names, which nobody has changed since.
  relation.columns.forEach((next, i) => {
    if (found[i] === -1)
      found[i] = columns.findIndex((column) => column.live && column.attnum === undefined && column.name === next.name);
  });
  const nameless = columns.some((column, i) => column.live && column.attnum === undefined && !found.includes(i));
  return nameless && found.includes(-1) ? null : found;
}

/** A name may be free only once another column has left it: then all of them go by way of names of their own. */
function renames(pairs: readonly (readonly string[])[]): Alteration[] {
  const moved = pairs.filter(([from, to]) => from !== to) as [string, string][];
  if (moved.length === 1 && foldName(moved[0]![0]) !== foldName(moved[0]![1]))
    return [{ does: 'rename', from: moved[0]![0], to: moved[0]![1] }];
  const away = (i: number): string => `_waltide_rename_${i}`;
  return [
    ...moved.map(([from], i): Alteration => ({ does: 'rename', from, to: away(i) })),
    ...moved.map(([, to], i): Alteration => ({ does: 'rename', from: away(i), to })),
  ];
}

/** Old label to new; null where values went that nobody can trace. */
function renamedLabels(column: SinkColumn, next: Column): Map<string, string> | null {
  const before = stripDomain(column.type, column.modifier).type;
  const after = stripDomain(next.type, next.modifier).type;
  if (before.kind === 'array' && after.kind === 'array' && before.of && after.of)
    return keepsLabels(before.of, after.of) ? new Map() : null;
  const labels = new Map<string, string>();
  if (!sameEnum(before, after)) return labels;
  const now = new Map(after.labelOids?.map((oid, i) => [oid, after.labels[i]!]));
  for (const [i, label] of before.labels.entries()) {
    const renamed = now.get(before.labelOids?.[i] ?? 0);
    if (renamed === undefined && !after.labels.includes(label)) return null;
    if (renamed !== undefined && renamed !== label) labels.set(label, renamed);
  }
  // A label that came with rows before anybody told of it, and is gone by now, was renamed.
  return column.extraLabels.every((label) => after.labels.includes(label)) ? labels : null;
}

function keepsLabels(before: ColumnType, after: ColumnType): boolean {
  const [a, b] = [stripDomain(before, -1).type, stripDomain(after, -1).type];
  return !sameEnum(a, b) || a.labels.every((label) => b.labels.includes(label));
}
