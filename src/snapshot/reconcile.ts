/*
 * Which rows of a chunk may be woven into the stream at its watermark. Pure.
 *
 * A chunk is read under an MVCC snapshot S, and its rows enter the stream at a watermark W that was written after the
 * read. Whatever is visible in S committed before W, and so was streamed before W: the row of the chunk includes it.
 * The one thing that makes a row wrong is a transaction that was streamed before W and is not visible in S. Such a
 * transaction may have been streamed even before the chunk was read: a commit can be decoded before it is visible to
 * new snapshots (by much, where it waits for a synchronous standby). The usual window between a low and a high
 * watermark misses it. So every streamed transaction is remembered until the snapshot of a chunk shows it visible.
 */

/** `pg_snapshot` (PostgreSQL manual, "Transaction ID and Snapshot Information Functions"): 64-bit ids, with epoch. */
export interface PgSnapshot {
  /** All below are over. */
  readonly xmin: bigint;
  /** None from here on had ended. */
  readonly xmax: bigint;
  /** In progress. */
  readonly xip: ReadonlySet<bigint>;
}

/** Reads `xmin:xmax:xip,xip,…`. Throws a RangeError on anything else. */
export function parseSnapshot(text: string): PgSnapshot {
  const match = /^(\d+):(\d+):([\d,]*)$/.exec(text);
  if (!match) throw new RangeError(`"${text}" is not a pg_snapshot`);
  const xip = match[3] ? match[3].split(',').map(BigInt) : [];
  return { xmin: BigInt(match[1]!), xmax: BigInt(match[2]!), xip: new Set(xip) };
}

/**
 * True where the transaction's effects are in `snapshot`. `xid` is what the stream carries: 32 bits, of a transaction
 * less than 2^31 transactions away from the snapshot.
 */
export function isVisible(xid: number, { xmin, xmax, xip }: PgSnapshot): boolean {
  const epoch = xmax & ~0xffffffffn;
  let full = epoch | BigInt(xid);
  if (full > xmax + 0x7fffffffn) full -= 0x100000000n;
  else if (full + 0x80000000n < xmax) full += 0x100000000n;
  return full < xmin || (full < xmax && !xip.has(full));
}

/**
 * What the stream told of a key. `whole`: its row, every value. `gone`: that there is none, or that what is there came
 * from another key: the sink has it from there, or it is read again. An image: its row but for values that the WAL does
 * not carry (unchanged TOAST).
 */
export type Touch<Image> = 'whole' | 'gone' | { readonly image: Image };

interface Transaction<Image> {
  readonly xid: number;
  weight: number;
  /** Null once there were too many to remember: then any key may be meant. */
  keys: Map<string, Touch<Image>> | null;
  /** Rows of before are void: a truncate, or the table has changed its shape. */
  voided: boolean;
}

export interface Verdict<Image> {
  /** True where the chunk must be read again as a whole. */
  readonly void: boolean;
  /** Keys that were touched by what the chunk does not show. */
  readonly touched: ReadonlyMap<string, Touch<Image>>;
}

export interface TouchedKeysOptions<Image> {
  /**
   * Most keys that are remembered (an image counts for more than one); past it a transaction's keys are forgotten, and
   * chunks that do not show it are void.
   */
  readonly keysMax: number;
  readonly weigh: (image: Image) => number;
  /** A later image over an earlier one; null where together they are whole. */
  readonly merge: (earlier: Image, later: Image) => Image | null;
}

/** What streamed transactions have done to one table, by transaction, in the order of the stream. */
export class TouchedKeys<Image> {
  readonly #options: TouchedKeysOptions<Image>;
  #transactions: Transaction<Image>[] = [];
  #weight = 0;

  constructor(options: TouchedKeysOptions<Image>) {
    this.#options = options;
  }

  /** How many keys are remembered now, images by their weight. */
  get size(): number {
    return this.#weight;
  }

  /** A streamed transaction wrote this key. Events come in stream order. */
  touch(xid: number, key: string, touch: Touch<Image>): void {
    const transaction = this.#of(xid);
    const { keys } = transaction;
    if (keys === null) return;
    const earlier = keys.get(key);
    const combined = combine(earlier, touch, this.#options.merge);
    keys.set(key, combined);
    const grown = this.#weigh(combined) - (earlier === undefined ? 0 : this.#weigh(earlier));
    transaction.weight += grown;
    this.#weight += grown;
    if (this.#weight > this.#options.keysMax) this.#overflow();
  }

  /** Rows read without this transaction are void, whatever their key. */
  voidAll(xid: number): void {
    const transaction = this.#of(xid);
    transaction.voided = true;
  }

  /** What a chunk read under `snapshot` does not show. */
  verdict(snapshot: PgSnapshot): Verdict<Image> {
    const touched = new Map<string, Touch<Image>>();
    let isVoid = false;
    for (const { xid, keys, voided } of this.#transactions) {
      if (isVisible(xid, snapshot)) continue;
      if (voided || keys === null) isVoid = true;
      else for (const [key, touch] of keys) touched.set(key, combine(touched.get(key), touch, this.#options.merge));
    }
    return { void: isVoid, touched };
  }

  /** Forgets what `snapshot` shows. Only where every chunk still to be woven was read under it or a later one. */
  forget(snapshot: PgSnapshot): void {
    const kept = this.#transactions.filter(({ xid }) => !isVisible(xid, snapshot));
    if (kept.length === this.#transactions.length) return;
    this.#transactions = kept;
    this.#weight = kept.reduce((sum, { weight }) => sum + weight, 0);
  }

  /** The largest transactions lose their keys, until half of the bound is left. */
  #overflow(): void {
    for (const transaction of [...this.#transactions].sort((a, b) => b.weight - a.weight)) {
      if (this.#weight <= this.#options.keysMax / 2) return;
      this.#weight -= transaction.weight;
      transaction.weight = 0;
      transaction.keys = null;
    }
  }

  #weigh(touch: Touch<Image>): number {
    return typeof touch === 'string' ? 1 : this.#options.weigh(touch.image);
  }

  #of(xid: number): Transaction<Image> {
    const last = this.#transactions.at(-1);
    if (last?.xid === xid) return last;
    const transaction: Transaction<Image> = { xid, weight: 0, keys: new Map(), voided: false };
    this.#transactions.push(transaction);
    return transaction;
  }
}

function combine<Image>(
  earlier: Touch<Image> | undefined,
  later: Touch<Image>,
  merge: (earlier: Image, later: Image) => Image | null,
): Touch<Image> {
  // Without an earlier word the missing values are those of the chunk's row; with a whole one they are in the sink.
  if (earlier === undefined || typeof later === 'string') return later;
  if (typeof earlier === 'string') return earlier;
  const image = merge(earlier.image, later.image);
  return image === null ? 'whole' : { image };
}
