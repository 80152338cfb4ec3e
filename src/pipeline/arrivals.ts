import { nearest } from '../config/faults.ts';
import { WaltideError } from '../errors.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import type { Applier } from './applier.ts';
import { busy } from './wait.ts';

/** Each costs a timer and a few hundred bytes. */
const WAITS_MAX = 10_000;
/** XLOG_BLCKSZ, and the header of a page. The first of a segment has a longer one: there, the next record brings it. */
const PAGE_BYTES = 8192n;
const HEADER_BYTES = 24n;

export interface WaitOptions {
  /** Names; all when left out. */
  readonly sinks?: readonly string[];
  readonly timeoutMs: number;
  /** A table that must be whole there: not set aside, nor being filled still. */
  readonly table?: { readonly schema: string; readonly table: string };
  /** What is on its way does not linger for more. */
  readonly atOnce?: boolean;
  readonly signal?: AbortSignal;
}

/** How far each sink was when the wait ended. */
export interface Arrival {
  /** Every one of `sinks` has applied it. */
  readonly reached: boolean;
  readonly sinks: readonly { readonly name: string; readonly appliedLsn: Lsn; readonly reached: boolean }[];
}

/** Throws NOT_REACHED where a wait for `lsn` ended before every sink had it. */
export function requireReached({ sinks }: Arrival, lsn: Lsn, timeoutMs: number): void {
  const late = sinks.filter(({ reached }) => !reached);
  if (late.length === 0) return;
  const where = late.map(({ name, appliedLsn }) => `sink "${name}" stands at ${formatLsn(appliedLsn)}`).join(', ');
  throw new WaltideError(
    'NOT_REACHED',
    `${where}, and not at ${formatLsn(lsn)} within ${timeoutMs} ms`,
    'Ask again, or allow more time; `waltide status` shows how far each sink is.',
  );
}

interface Goal {
  readonly lsn: Lsn;
  readonly names: readonly string[];
  readonly table: WaitOptions['table'];
}

interface Wait extends Goal {
  readonly atOnce: boolean;
  readonly end: () => void;
}

/** Tells when sinks have applied what was committed up to an LSN. Outlives the sessions of a pipeline. */
export class Arrivals {
  readonly #names: readonly string[];
  readonly #waits = new Set<Wait>();
  #appliers: readonly Applier[] = [];
  #ended = false;

  /** Names of every sink there will be. */
  constructor(names: readonly string[]) {
    this.#names = names;
  }

  /** The sinks are open, and go on from what they have. `onAdvanced`: one may have come further. */
  follow(appliers: readonly Applier[], onAdvanced: (applier: Applier) => void): void {
    this.#appliers = appliers;
    for (const applier of appliers)
      applier.subscription.onAdvanced = () => {
        onAdvanced(applier);
        this.#look();
      };
    this.#look();
  }

  /** Nothing will come any more. */
  end(): void {
    this.#ended = true;
    for (const wait of this.#waits) wait.end();
  }

  /**
   * Resolves once every one of the sinks has applied what was committed before `lsn`, and otherwise after `timeoutMs` or
   * when `signal` aborts: `reached` says which. Rejects with USAGE for a sink that there is not, with NOT_RUNNING where
   * the pipeline has ended or too many wait.
   */
  async wait(lsn: Lsn, { sinks, timeoutMs, table, atOnce = false, signal }: WaitOptions): Promise<Arrival> {
    const names = sinks ?? this.#names;
    for (const name of names) if (!this.#names.includes(name)) throw this.#unknown(name);
    if (this.#waits.size >= WAITS_MAX) throw busy(`${WAITS_MAX} callers wait for sinks already`);
    const goal: Goal = { lsn: recordEnd(lsn), names, table };
    if (!this.#arrival(goal).reached) {
      await new Promise<void>((resolve) => {
        const end = (): void => {
          clearTimeout(timer);
          signal?.removeEventListener('abort', end);
          this.#waits.delete(wait);
          resolve();
        };
        const wait: Wait = { ...goal, atOnce, end };
        const timer = setTimeout(end, timeoutMs);
        this.#waits.add(wait);
        if (signal?.aborted || this.#ended) end();
        else signal?.addEventListener('abort', end, { once: true });
        this.#hasten();
      });
      this.#hasten();
    }
    const arrival = this.#arrival(goal);
    if (!arrival.reached && this.#ended) throw busy('the pipeline has ended');
    return arrival;
  }

  #look(): void {
    let ended = false;
    for (const wait of this.#waits) {
      if (!this.#arrival(wait).reached) continue;
      wait.end();
      ended = true;
    }
    // The next session's loops must learn of those that wait still.
    if (ended || this.#waits.size > 0) this.#hasten();
  }

  #hasten(): void {
    for (const { sink, loop, subscription } of this.#appliers) {
      const applied = subscription.appliedLsn();
      let haste: 'none' | 'idle' | 'now' = 'none';
      for (const { lsn, names, atOnce } of this.#waits) {
        if (lsn <= applied || !names.includes(sink.name)) continue;
        haste = atOnce ? 'now' : 'idle';
        if (atOnce) break;
      }
      loop.hasten(haste);
    }
  }

  /** A sink that is not open stands at 0. */
  #arrival({ lsn, names, table }: Goal): Arrival {
    const sinks = names.map((name) => {
      const applier = this.#appliers.find(({ sink }) => sink.name === name);
      const appliedLsn = applier?.subscription.appliedLsn() ?? 0n;
      const whole = !table || (applier !== undefined && isWhole(applier, table));
      return { name, appliedLsn, reached: appliedLsn >= lsn && whole };
    });
    return { reached: sinks.every(({ reached }) => reached), sinks };
  }

  #unknown(name: string): WaltideError {
    const near = nearest(name, [...this.#names]);
    return new WaltideError(
      'USAGE',
      `there is no sink "${name}"${near ? `; did you mean "${near}"?` : ''}`,
      `There are: ${this.#names.join(', ') || 'none'}.`,
    );
  }
}

/**
 * `pg_current_wal_insert_lsn()` is where the next record will begin: on a new page that is behind its header, where no
 * record can end, and which nothing that is decoded would ever reach.
 */
function recordEnd(lsn: Lsn): Lsn {
  const inPage = lsn % PAGE_BYTES;
  return inPage <= HEADER_BYTES ? lsn - inPage : lsn;
}

/** True where the sink does not remember tables, too. */
function isWhole({ loop }: Applier, { schema, table }: NonNullable<WaitOptions['table']>): boolean {
  const { followed, stopped } = loop.status;
  const isIt = (one: { readonly schema: string; readonly table: string }): boolean =>
    one.schema === schema && one.table === table;
  return !stopped.some(isIt) && (followed?.find(isIt)?.live ?? followed === null);
}
