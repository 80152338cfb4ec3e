import { createHash, type Hash } from 'node:crypto';

/** Differences shown per table; all are counted. */
const DIFFERENCES_SHOWN = 5;

/** One value as canonical text, the same from both databases; null is NULL. */
export type Cell = string | null;
/** One cell per column of the table. */
export type CanonicalRow = readonly Cell[];

/** Rows of one table in the byte order of their keys' canonical text, in batches. */
export type RowStream = AsyncIterable<readonly CanonicalRow[]>;

export interface Difference {
  /** missing = not in the target; extra = only there; different = another value; column = not in both tables. */
  readonly kind: 'missing' | 'extra' | 'different' | 'column';
  readonly key: string;
  /** Values that differ. */
  readonly columns: readonly { readonly name: string; readonly source: Cell; readonly target: Cell }[];
}

export interface TableComparison {
  readonly table: string;
  readonly sourceRows: number;
  readonly targetRows: number;
  /** SHA-256 over the canonical text of all rows, in hexadecimal. */
  readonly sourceDigest: string;
  readonly targetDigest: string;
  readonly equal: boolean;
  readonly differenceCount: number;
  /** The first ones. */
  readonly differences: readonly Difference[];
}

export interface TableToCompare {
  readonly table: string;
  /** Where the key's columns are in a row, in the order in which rows are sorted. */
  readonly key: readonly number[];
  readonly columns: readonly string[];
  /** Columns that only one side has. */
  readonly unmatched: readonly { readonly name: string; readonly side: 'source' | 'target' }[];
}

/**
 * Compares two streams of one table row by row, value by value, holding one batch of each in memory. Rows that are
 * missing on either side are told apart from rows that differ, since both come in the order of their keys.
 */
export async function compareRows(
  table: TableToCompare,
  source: RowStream,
  target: RowStream,
  progress: (rows: number) => void = () => {},
): Promise<TableComparison> {
  const a = new Side(source);
  const b = new Side(target);
  const found = new Differences(table);
  for (;;) {
    if (a.empty) {
      await a.load();
      progress(a.rows);
    }
    if (b.empty) await b.load();
    if (a.empty && b.empty) break;
    if (a.empty) found.add('extra', null, b.take());
    else if (b.empty) found.add('missing', a.take(), null);
    else if (a.text === b.text) {
      a.skip();
      b.skip();
    } else {
      const order = compareKeys(a.row, b.row, table.key);
      if (order < 0) found.add('missing', a.take(), null);
      else if (order > 0) found.add('extra', null, b.take());
      else found.add('different', a.take(), b.take());
    }
  }
  const sourceDigest = a.digest();
  const targetDigest = b.digest();
  return {
    table: table.table,
    sourceRows: a.rows,
    targetRows: b.rows,
    sourceDigest,
    targetDigest,
    equal: found.count === 0 && sourceDigest === targetDigest,
    differenceCount: found.count,
    differences: found.shown,
  };
}

/** One stream with the row that is next, and the digest of all that came. */
class Side {
  readonly #batches: AsyncIterator<readonly CanonicalRow[]>;
  readonly #hash: Hash = createHash('sha256');
  #batch: readonly CanonicalRow[] = [];
  #texts: readonly string[] = [];
  #at = 0;
  #next: Promise<IteratorResult<readonly CanonicalRow[]>>;
  rows = 0;

  constructor(stream: RowStream) {
    this.#batches = stream[Symbol.asyncIterator]();
    this.#next = this.#fetch();
  }

  get empty(): boolean {
    return this.#at >= this.#batch.length;
  }

  get row(): CanonicalRow {
    return this.#batch[this.#at]!;
  }

  /** JSON keeps NULL, '' and the bounds between values apart. */
  get text(): string {
    return this.#texts[this.#at]!;
  }

  async load(): Promise<void> {
    const next = await this.#next;
    if (!next.done) this.#next = this.#fetch();
    this.#batch = next.done ? [] : next.value;
    this.#at = 0;
    this.#texts = this.#batch.map((row) => JSON.stringify(row));
    this.rows += this.#batch.length;
    if (this.#texts.length > 0) this.#hash.update(`${this.#texts.join('\n')}\n`);
    else if (!next.done) await this.load();
  }

  /** One batch ahead, so that both databases work while we compare. */
  #fetch(): Promise<IteratorResult<readonly CanonicalRow[]>> {
    const next = this.#batches.next();
    next.catch(() => {}); // Told when it is waited for.
    return next;
  }

  skip(): void {
    this.#at++;
  }

  take(): CanonicalRow {
    return this.#batch[this.#at++]!;
  }

  digest(): string {
    return this.#hash.digest('hex');
  }
}

function compareKeys(a: CanonicalRow, b: CanonicalRow, key: readonly number[]): number {
  for (const i of key) {
    // Bytes, as both databases sort them: JavaScript's own order differs beyond U+FFFF.
    const order = Buffer.compare(Buffer.from(a[i] ?? ''), Buffer.from(b[i] ?? ''));
    if (order !== 0) return order;
  }
  return 0;
}

class Differences {
  readonly shown: Difference[] = [];
  readonly #table: TableToCompare;
  count = 0;

  constructor(table: TableToCompare) {
    this.#table = table;
    for (const { name, side } of table.unmatched)
      this.#push({
        kind: 'column',
        key: name,
        columns: [{ name, source: side === 'source' ? 'there' : null, target: side === 'target' ? 'there' : null }],
      });
  }

  add(kind: 'missing' | 'extra' | 'different', source: CanonicalRow | null, target: CanonicalRow | null): void {
    const { key, columns } = this.#table;
    const row = (source ?? target)!;
    const cells = columns.map((name, i) => ({ name, source: source?.[i] ?? null, target: target?.[i] ?? null }));
    this.#push({
      kind,
      key: key.map((i) => row[i] ?? 'NULL').join(', '),
      columns: kind === 'different' ? cells.filter((cell) => cell.source !== cell.target) : [],
    });
  }

  #push(difference: Difference): void {
    this.count++;
    if (this.shown.length < DIFFERENCES_SHOWN) this.shown.push(difference);
  }
}
