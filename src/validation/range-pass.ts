import type { Lsn } from '../event/lsn.ts';
import type { KeyText } from '../postgres/snapshots.ts';
import { chain } from './parts.ts';
import { sizesOf } from './row-text.ts';
import type { SourceReader } from './source.ts';
import type { SourceTable } from './source-table.ts';
import type { Digest, Digestible, KeyRange } from './validation.ts';

/** Bounds are looked up for so many queries at once: they cost little beside the digests, a round trip more. */
const QUERIES_BOUNDED = 4;

/** The source reads for some queries while the sink reads for as many. */
const STAGES = 2;

export interface Sides {
  readonly source: SourceReader;
  readonly sink: Digestible;
  readonly table: SourceTable;
  readonly signal: AbortSignal;
}

export interface Pair {
  readonly range: KeyRange;
  readonly source: Digest;
  readonly sink: Digest;
}

export interface Compared {
  readonly pairs: readonly Pair[];
  readonly lsn: Lsn;
}

/**
 * What is equal is equal, whatever the LSNs. The source is read first: what it showed has most often come to the sink when
 * that is read, so that few ranges differ by what is in flight.
 */
export async function comparePairs(
  { source, sink, table, signal }: Sides,
  ranges: readonly KeyRange[],
): Promise<Compared> {
  const seen = await source.digests(table, ranges);
  signal.throwIfAborted();
  const held = await sink.digests(table, ranges, signal);
  const pairs = ranges.map((range, i) => ({ range, source: seen.found[i]!, sink: held[i]! }));
  return { pairs, lsn: seen.lsn };
}

/**
 * Digests of adjoining ranges from `cursor` to the end, in the order of the key, some ranges at a time. The next ones are
 * under way while these are looked at, so that no side waits for the other; under a limit of rows a second nothing is.
 * When the caller goes away, what is under way is waited for.
 */
export async function* rangePass(
  sides: Sides,
  cursor: KeyText | null,
  rowsPerSecondMax: number | null,
): AsyncGenerator<Compared & { readonly last: boolean }> {
  const { source, table, signal } = sides;
  const { rows, ranges } = sizesOf(table.columns);
  const rangesMax = Math.min(ranges, Math.ceil((rowsPerSecondMax ?? Number.POSITIVE_INFINITY) / rows));
  const [depth, boundsMax] =
    rowsPerSecondMax === null ? [source.sessionsMax * STAGES, rangesMax * QUERIES_BOUNDED] : [1, rangesMax];
  const underWay: Promise<Compared>[] = [];
  let ends: (KeyText | null)[] = [];
  let after = cursor;
  let known = cursor;
  let isWhole = false;
  try {
    do {
      while (underWay.length < depth && !(isWhole && ends.length === 0)) {
        signal.throwIfAborted();
        if (!isWhole && ends.length < rangesMax) {
          const bounds = await source.bounds(table, known, rows, boundsMax);
          isWhole = bounds.length < boundsMax;
          known = bounds.at(-1) ?? known;
          ends.push(...bounds, ...(isWhole ? [null] : []));
        }
        const next = ends.slice(0, rangesMax);
        ends = ends.slice(rangesMax);
        const compared = comparePairs(sides, chain(after, next));
        compared.catch(() => {});
        underWay.push(compared);
        after = next.at(-1)!;
      }
      const compared = await underWay.shift()!;
      yield { ...compared, last: isWhole && ends.length === 0 && underWay.length === 0 };
    } while (underWay.length > 0 || ends.length > 0 || !isWhole);
  } finally {
    await Promise.allSettled(underWay);
  }
}
