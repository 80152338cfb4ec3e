import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import { relationName } from '../event/relation.ts';
import type { KeyText } from '../postgres/snapshots.ts';
import { commitsVisible } from '../postgres/writers.ts';
import { both, chain, slices } from './parts.ts';
import { comparePairs, type Pair, rangePass } from './range-pass.ts';
import { type Difference, scoreOf, type TableResult, type ValidationProgress } from './report.ts';
import { keyName } from './row-text.ts';
import { differenceOf, isSame, suspectsOf, verdict } from './settle.ts';
import type { Seen, SourceReader, SourceRow } from './source.ts';
import type { SourceTable } from './source-table.ts';
import type { Digestible, KeyRange, RowDigest } from './validation.ts';

/** A differing range of no more rows is compared row by row. */
const ROWS_AT_ONCE = 128;
const PARTS_MAX = 16;
const RANGES_REFINED_MAX = 64;
/** Rows that are looked at together. */
const SUSPECTS_MAX = 500;
/** A row that has changed under so many looks is hot. */
const LOOKS_MAX = 12;
const LOOKS_WITH_CARE = 3;
const LOOK_AGAIN_MS = 50;
const SAVE_EVERY_MS = 5000;
const WORKING_MS = 1000;
const COMMITTING_MS = 30_000;
const ROWS_PER_BUCKET = 512;
const BUCKETS_MAX = 16_384;
const BUCKET_ROWS_MAX = 200_000;

export interface TableRunOptions {
  readonly source: SourceReader;
  readonly sinkName: string;
  readonly sink: Digestible;
  readonly table: SourceTable;
  /** Resolves once the sink has applied everything that was committed before that LSN. */
  readonly passed: (lsn: Lsn) => Promise<void>;
  readonly signal: AbortSignal;
  readonly rowsPerSecondMax: number | null;
  /** More differences than these are not looked for. */
  readonly differencesMax: number;
  readonly onProgress: (progress: ValidationProgress) => void;
  /** Everything up to `cursor` is compared, and settled; called every few seconds. */
  readonly onCursor: (cursor: KeyText, result: TableResult) => Promise<void>;
  /** What an earlier run had found up to its cursor. */
  readonly before: TableResult | null;
}

/** Compares one table of one sink with the source, while both go on. */
export class TableRun {
  readonly #options: TableRunOptions;
  readonly #suspects = new Map<string, KeyText>();
  readonly #digests = { source: createHash('sha256'), sink: createHash('sha256') };
  readonly #startedAt = performance.now();
  readonly differences: Difference[] = [];
  #sourceRows = 0;
  #sinkExtra = 0;
  #sinkBytes = 0;
  #unsettled = 0;
  #someRows = false;
  #truncated = false;
  #lsn: Lsn = 0n;

  constructor(options: TableRunOptions) {
    this.#options = options;
    const { before } = options;
    if (!before) return;
    this.differences.push(...before.differences);
    this.#sourceRows = before.sourceRows;
    this.#unsettled = before.unsettled;
    this.#digests.source.update(`${before.sourceDigest ?? ''}\n`);
    this.#digests.sink.update(`${before.sinkDigest ?? ''}\n`);
  }

  /** All rows, from `cursor` on. */
  async compare(cursor: KeyText | null = null): Promise<void> {
    if (this.#options.table.ranged) await this.#ranges(cursor);
    else await this.#buckets();
    await this.#settle();
  }

  /** These rows only. */
  async compareKeys(keys: readonly KeyText[]): Promise<void> {
    this.#sourceRows = keys.length;
    this.#someRows = true;
    for (const key of keys) await this.#suspect([key]);
    await this.#settle();
  }

  result(repaired = 0): TableResult {
    const { table, sinkName, source } = this.#options;
    const counts = { missing: 0, extra: 0, different: 0 };
    for (const { kind } of this.differences) counts[kind]++;
    const sourceDigest = this.#someRows ? null : this.#digests.source.copy().digest('hex');
    const wrong = this.differences.length + this.#sinkExtra;
    const sinkRows = this.#sourceRows - counts.missing + counts.extra + this.#sinkExtra;
    return {
      sink: sinkName,
      table: relationName(table.relation),
      sourceRows: this.#sourceRows,
      sinkRows,
      sourceDigest,
      // Rows in flight made ranges differ that do not.
      sinkDigest: wrong === 0 || this.#someRows ? sourceDigest : this.#digests.sink.copy().digest('hex'),
      ...counts,
      extra: counts.extra + this.#sinkExtra,
      unsettled: this.#unsettled,
      differences: this.differences,
      truncated: this.#truncated,
      score: scoreOf(Math.max(this.#sourceRows, sinkRows), wrong),
      lsn: formatLsn(this.#lsn),
      columnsLeftOut: table.absent,
      repaired,
      bytesMoved: source.bytes + this.#sinkBytes,
      durationMs: Math.round(performance.now() - this.#startedAt),
    };
  }

  async #ranges(cursor: KeyText | null): Promise<void> {
    const { onCursor, rowsPerSecondMax } = this.#options;
    let differing: Pair[] = [];
    let savedAt = performance.now();
    let begun = performance.now();
    for await (const { pairs, lsn, last } of rangePass(this.#options, cursor, rowsPerSecondMax)) {
      this.#saw({ lsn });
      const rows = this.#count(pairs);
      differing.push(...pairs.filter((pair) => this.#differs(pair)));
      const due = last || performance.now() - savedAt > SAVE_EVERY_MS;
      if (due || differing.length >= RANGES_REFINED_MAX / 2) {
        await this.#refine(differing);
        differing = [];
      }
      const { after } = pairs[0]!.range;
      const { upto } = pairs.at(-1)!.range;
      await this.#masked({ after, upto });
      this.#progress();
      if (last || this.#truncated) return;
      if (due) {
        // What is suspected lies before the cursor, and would be passed over by who resumes.
        await this.#settle();
        await onCursor(upto!, this.result());
        savedAt = performance.now();
      }
      await this.#slowDown(rows, begun);
      begun = performance.now();
    }
  }

  #count(pairs: readonly Pair[]): number {
    let rows = 0;
    this.#sinkBytes += pairs.length * 80;
    for (const { source, sink } of pairs) {
      rows += source.rows;
      this.#digests.source.update(`${source.hash}\n`);
      this.#digests.sink.update(`${sink.hash}\n`);
    }
    this.#sourceRows += rows;
    return rows;
  }

  async #digest(ranges: readonly KeyRange[]): Promise<readonly Pair[]> {
    const { pairs, lsn } = await comparePairs(this.#options, ranges);
    this.#saw({ lsn });
    this.#sinkBytes += pairs.length * 80;
    return pairs;
  }

  /** Narrows differing ranges down to rows that may differ; all of one size together, so that there are few round trips. */
  async #refine(differing: readonly Pair[]): Promise<void> {
    const { source, table, signal } = this.#options;
    if (differing.length === 0 || this.#truncated) return;
    signal.throwIfAborted();
    const small = differing.filter((pair) => pair.source.rows <= ROWS_AT_ONCE);
    const large = differing.filter((pair) => pair.source.rows > ROWS_AT_ONCE);
    for (const some of slices(small, RANGES_REFINED_MAX)) await this.#rows(some.map(({ range }) => range));
    if (large.length === 0) return;
    const wanted = large.map(({ range, source: { rows } }) => ({
      range,
      rowsPer: Math.max(ROWS_AT_ONCE / 2, Math.ceil(rows / PARTS_MAX)),
    }));
    const bounds = await source.splits(table, wanted, PARTS_MAX);
    const parts = large.flatMap(({ range }, i) => chain(range.after, [...bounds[i]!, range.upto]));
    for (const some of slices(parts, RANGES_REFINED_MAX))
      await this.#refine((await this.#digest(some)).filter((pair) => this.#differs(pair)));
  }

  #differs({ source: ours, sink: theirs }: Pair): boolean {
    if (ours.hash === theirs.hash && ours.rows === theirs.rows) return false;
    if (theirs.rows - ours.rows <= this.#options.differencesMax) return true;
    this.#sinkExtra += theirs.rows - ours.rows;
    this.#truncated = true;
    return false;
  }

  async #rows(ranges: readonly KeyRange[]): Promise<void> {
    const { source, sink, table, signal } = this.#options;
    const [seen, held] = await both(source.rowDigests(table, ranges), sink.rowDigests(table, ranges, signal));
    this.#saw(seen);
    this.#countRows(held);
    await this.#suspect(suspectsOf(seen.found, held));
  }

  async #masked(range: KeyRange): Promise<void> {
    const { source, sink, table, signal } = this.#options;
    const { masked } = table;
    if (masked.length === 0) return;
    const theirs = sink.rowDigests({ ...table, columns: masked }, [range], signal);
    const [seen, held] = await both(source.maskedDigests(table, range), theirs);
    this.#saw(seen);
    this.#countRows(held);
    await this.#suspect(suspectsOf(seen.found, held));
  }

  async #suspect(keys: readonly KeyText[]): Promise<void> {
    for (const key of keys) this.#suspects.set(keyName(key), key);
    if (this.#suspects.size >= SUSPECTS_MAX) await this.#settle();
  }

  /** Until each suspect is proven equal or different, or has changed too often. */
  async #settle(): Promise<void> {
    const { differencesMax } = this.#options;
    const keys = [...this.#suspects.values()];
    this.#suspects.clear();
    for (let i = 0; i < keys.length; i += SUSPECTS_MAX) await this.#settleSome(keys.slice(i, i + SUSPECTS_MAX));
    if (this.differences.length > differencesMax) this.#truncated = true;
    this.#progress();
  }

  async #settleSome(keys: readonly KeyText[]): Promise<void> {
    const { source, sink, table, passed, signal } = this.#options;
    const whole = { ...table, columns: [...table.columns, ...table.masked] };
    const names = whole.columns.map(({ name }) => name);
    let open = keys;
    for (let looks = 1; open.length > 0; looks++) {
      const first = await source.rows(table, open);
      const reading = passed(first.lsn).then(() => sink.rows(whole, open, signal));
      // What changes all the time is caught in between.
      const between = looks >= LOOKS_WITH_CARE ? await this.#versions(open, reading) : [];
      const held = await reading;
      const bound = { workingMs: WORKING_MS, boundMs: COMMITTING_MS };
      const visible = await commitsVisible(await source.session(), table.published.oid, bound, signal);
      const second = await source.rows(table, open);
      this.#saw(second);
      const again: KeyText[] = [];
      for (const key of open) {
        const name = keyName(key);
        const look = { first: first.found.get(name), sink: held.get(name) ?? [], second: second.found.get(name) };
        if (between.some((rows) => isSame(look.sink, rows.get(name)))) continue;
        const found = verdict(look, looks);
        if (found === 'again' || (found !== null && !visible)) again.push(key);
        else if (found !== null) this.differences.push(differenceOf(found, key, look, names));
      }
      open = again;
      if (looks === LOOKS_MAX) {
        this.#unsettled += open.length;
        return;
      }
      if (open.length > 0) await sleep(LOOK_AGAIN_MS, undefined, { signal });
    }
  }

  /** The rows as they are, again and again, until `reading` is done. */
  async #versions(keys: readonly KeyText[], reading: Promise<unknown>): Promise<ReadonlyMap<string, SourceRow>[]> {
    const { source, table } = this.#options;
    const seen: ReadonlyMap<string, SourceRow>[] = [];
    let over = false;
    const end = (): void => {
      over = true;
    };
    reading.then(end, end);
    while (!over) seen.push((await source.rows(table, keys)).found);
    return seen;
  }

  /** One pass over both tables, then the rows of buckets that differ. */
  async #buckets(): Promise<void> {
    const { source, sink, table, signal } = this.#options;
    const wanted = Math.max(1, table.published.estimatedRows / ROWS_PER_BUCKET);
    const count = Math.min(BUCKETS_MAX, 2 ** Math.ceil(Math.log2(wanted)));
    const [seen, held] = await both(source.buckets(table, count), sink.buckets(table, count, signal));
    this.#saw(seen);
    this.#sinkBytes += held.length * 60;
    const differing: number[] = [];
    for (const [bucket, { rows, hash }] of seen.found.entries()) {
      this.#sourceRows += rows;
      this.#digests.source.update(`${hash}\n`);
      this.#digests.sink.update(`${held[bucket]!.hash}\n`);
      if (hash !== held[bucket]!.hash) differing.push(bucket);
    }
    this.#progress();
    let group: number[] = [];
    let rows = 0;
    for (const [i, bucket] of differing.entries()) {
      group.push(bucket);
      rows += Math.max(seen.found[bucket]!.rows, held[bucket]!.rows);
      if (rows < BUCKET_ROWS_MAX && i < differing.length - 1) continue;
      if (table.key.length > 0) await this.#bucketRows(count, group);
      else await this.#settleBuckets(count, group);
      group = [];
      rows = 0;
    }
  }

  async #bucketRows(count: number, buckets: readonly number[]): Promise<void> {
    const { source, sink, table, signal, passed } = this.#options;
    const seen = await source.bucketRows(table, count, buckets);
    this.#saw(seen);
    await passed(seen.lsn);
    const held = await sink.bucketRows(table, count, buckets, signal);
    this.#countRows(held);
    await this.#suspect(suspectsOf(seen.found, held));
  }

  /** Rows that nothing tells apart are counted: as many copies here as there. */
  async #settleBuckets(count: number, buckets: readonly number[]): Promise<void> {
    const { source, sink, table, signal, passed } = this.#options;
    const copies = (rows: readonly RowDigest[]): Map<string, number> =>
      new Map(rows.map((row) => [row.hash, row.copies]));
    let open: Set<string> | null = null;
    for (let looks = 1; open === null || open.size > 0; looks++) {
      const first = await source.bucketRows(table, count, buckets);
      await passed(first.lsn);
      const held = copies(await sink.bucketRows(table, count, buckets, signal));
      await commitsVisible(
        await source.session(),
        table.published.oid,
        { workingMs: WORKING_MS, boundMs: COMMITTING_MS },
        signal,
      );
      const second = await source.bucketRows(table, count, buckets);
      this.#saw(second);
      const [a, c] = [copies(first.found), copies(second.found)];
      const again = new Set<string>();
      for (const hash of open ?? new Set([...a.keys(), ...c.keys(), ...held.keys()])) {
        const [before, there, now] = [a.get(hash) ?? 0, held.get(hash) ?? 0, c.get(hash) ?? 0];
        if (there === before || there === now) continue;
        if (before !== now || looks < 2) again.add(hash);
        else
          for (let i = 0; i < Math.abs(now - there); i++)
            this.differences.push({ kind: there < now ? 'missing' : 'extra', key: [hash], columns: [] });
      }
      open = again;
      if (looks < LOOKS_MAX) continue;
      this.#unsettled += open.size;
      return;
    }
  }

  #saw({ lsn }: Pick<Seen<unknown>, 'lsn'>): void {
    if (lsn > this.#lsn) this.#lsn = lsn;
  }

  #countRows(rows: readonly RowDigest[]): void {
    for (const { key, hash } of rows) this.#sinkBytes += key.reduce((sum, text) => sum + text.length, hash.length);
  }

  #progress(): void {
    const { table, sinkName, onProgress } = this.#options;
    onProgress({
      sink: sinkName,
      table: relationName(table.relation),
      rows: this.#sourceRows,
      estimatedRows: table.published.estimatedRows,
      differences: this.differences.length,
    });
  }

  async #slowDown(rows: number, begun: number): Promise<void> {
    const { rowsPerSecondMax, signal } = this.#options;
    if (rowsPerSecondMax === null) return;
    const waitMs = (rows * 1000) / rowsPerSecondMax - (performance.now() - begun);
    if (waitMs > 0) await sleep(waitMs, undefined, { signal });
  }
}
