import type { RecordedChange, RecordedColumn, RecordedTable } from '../postgres/schema-history.ts';

const IDENTITIES = { d: 'primary key', i: 'index', f: 'full row', n: 'nothing' } as const;

/** What a recorded change did, in words, one thing per line; never empty. */
export function changeWords(change: RecordedChange): string[] {
  const { old, new: now } = change;
  const words: string[] = [];
  if (!now) words.push('dropped the table');
  else if (!old) words.push(`seen first, with ${now.columns.map(columnWords).join(', ')}`);
  else words.push(...tableWords(old, now), ...columnsWords(old, now));
  if (change.rewritten === 'unknown')
    words.push('values of existing rows changed, or rows came or went, without a word in the WAL');
  return words.length > 0 ? words : ['nothing that shows in rows'];
}

const columnWords = ({ name, type, default: expression }: RecordedColumn): string =>
  `${name} ${type}${expression ? ` default ${expression}` : ''}`;

function tableWords(old: RecordedTable, now: RecordedTable): string[] {
  const words: string[] = [];
  if (old.schema !== now.schema || old.table !== now.table)
    words.push(`renamed ${old.schema}.${old.table} to ${now.schema}.${now.table}`);
  if (old.replicaIdentity !== now.replicaIdentity)
    words.push(`replica identity: ${IDENTITIES[old.replicaIdentity]} → ${IDENTITIES[now.replicaIdentity]}`);
  if (old.partitions && now.partitions && String(old.partitions) !== String(now.partitions))
    words.push(`partitions: ${old.partitions.length} → ${now.partitions.length}`);
  return words;
}

/** Columns match by number where both have one, else by name. */
function columnsWords(old: RecordedTable, now: RecordedTable): string[] {
  const words: string[] = [];
  const left = new Set(old.columns);
  const renamed = new Map<string, string>();
  for (const column of now.columns) {
    const before = old.columns.find((other) => same(other, column));
    if (!before) {
      words.push(`added column ${columnWords(column)}`);
      continue;
    }
    left.delete(before);
    renamed.set(before.name, column.name);
    words.push(...columnChanges(before, column));
  }
  for (const { name } of left) words.push(`dropped column ${name}`);
  const key = old.key.map((name) => renamed.get(name) ?? name);
  if (String(key) !== String(now.key)) words.push(`key: (${old.key.join(', ')}) → (${now.key.join(', ')})`);
  return words;
}

const same = (a: RecordedColumn, b: RecordedColumn): boolean =>
  a.attnum !== undefined && b.attnum !== undefined ? a.attnum === b.attnum : a.name === b.name;

function columnChanges(before: RecordedColumn, now: RecordedColumn): string[] {
  const words: string[] = [];
  const { name } = now;
  if (before.name !== name) words.push(`renamed column ${before.name} to ${name}`);
  if (before.type !== now.type) words.push(`column ${name}: ${before.type} → ${now.type}`);
  if (before.default !== undefined && now.default !== undefined && before.default !== now.default)
    words.push(`column ${name}: default ${before.default ?? 'none'} → ${now.default ?? 'none'}`);
  if (before.notNull !== undefined && now.notNull !== undefined && before.notNull !== now.notNull)
    words.push(`column ${name}: ${now.notNull ? 'not null' : 'null allowed'}`);
  return [...words, ...labelChanges(before, now)];
}

function labelChanges(before: RecordedColumn, now: RecordedColumn): string[] {
  if (!before.labels || !now.labels) return [];
  const words: string[] = [];
  const was = new Map(before.labelOids?.map((oid, i) => [oid, before.labels![i]!]));
  now.labels.forEach((label, i) => {
    const old = was.get(now.labelOids?.[i] ?? 0);
    if (old !== undefined && old !== label) words.push(`column ${now.name}: label '${old}' renamed to '${label}'`);
    else if (old === undefined && !before.labels!.includes(label))
      words.push(`column ${now.name}: new label '${label}'`);
  });
  return words;
}
