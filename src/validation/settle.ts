import type { KeyText } from '../postgres/snapshots.ts';
import type { Difference } from './report.ts';
import { keyName } from './row-text.ts';
import type { SourceRow } from './source.ts';
import type { Cells } from './validation.ts';

/*
 * Whether a row differs while both sides change. Pure. The source is read (first), the sink once it has passed the LSN of
 * that, then the source again (second), under a snapshot that shows all that the sink may have had. A row whose version
 * is the same in both reads was not touched in between, so what the sink holds must be it.
 */

export interface Looks {
  readonly first: SourceRow | undefined;
  readonly sink: readonly Cells[];
  readonly second: SourceRow | undefined;
}

/** A row that is not there has no version: it may have come and gone between two reads, so that one look proves nothing. */
const LOOKS_AT_ABSENT = 3;

/** null = equal, again = it changed meanwhile. */
export type Verdict = Difference['kind'] | 'again' | null;

export function verdict({ first, sink, second }: Looks, looks: number): Verdict {
  if (isSame(sink, first) || isSame(sink, second)) return null;
  if (first?.version !== second?.version) return 'again';
  if (!first) return looks < LOOKS_AT_ABSENT ? 'again' : 'extra';
  if (sink.length === 0) return 'missing';
  return sink.length > 1 ? 'extra' : 'different';
}

/** True where the sink holds the row as it is there, and once. */
export function isSame(sink: readonly Cells[], row: SourceRow | undefined): boolean {
  if (!row) return sink.length === 0;
  return sink.length === 1 && row.cells.every((cell, i) => cell === sink[0]![i]);
}

/** The difference, with the columns that differ. */
export function differenceOf(
  kind: Difference['kind'],
  key: KeyText,
  { second, sink }: Looks,
  names: readonly string[],
): Difference {
  const held = sink[0];
  if (kind !== 'different' || !second || !held) return { kind, key, columns: [] };
  const columns = names.flatMap((name, i) =>
    second.cells[i] === held[i] ? [] : [{ name, source: second.cells[i] ?? null, sink: held[i] ?? null }],
  );
  return { kind, key, columns };
}

/** Keys whose rows are not the same in both lists. */
export function suspectsOf(
  source: readonly { readonly key: KeyText; readonly hash: string }[],
  sink: readonly { readonly key: KeyText; readonly hash: string }[],
): KeyText[] {
  const expected = new Map(source.map((row) => [keyName(row.key), row]));
  const suspects = new Map<string, KeyText>();
  const seen = new Set<string>();
  for (const { key, hash } of sink) {
    const name = keyName(key);
    if (seen.has(name) || expected.get(name)?.hash !== hash) suspects.set(name, key);
    seen.add(name);
  }
  for (const [name, { key }] of expected) if (!seen.has(name)) suspects.set(name, key);
  return [...suspects.values()];
}
