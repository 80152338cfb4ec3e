import type { BatchConfig } from '../config/schema.ts';
import type { Batching, SinkPace } from '../config/strategy.ts';
import type { ChangeEvent } from '../event/change-event.ts';
import type { Relation } from '../event/relation.ts';
import { matchesPattern } from '../postgres/publication.ts';

/** The first wait of a sink that has begun to fall behind, in ms. */
const FIRST_LINGER_MS = 5;
/** Shares of the time that a sink spends on applying, above and below which the wait is doubled and halved. */
const BUSY = 0.5;
const EASY = 0.25;

/** How long, and up to what size, deliveries may wait for more before a sink applies them. */
export class Pace {
  readonly #options: SinkPace;
  /** By table as the stream describes it: looked up once, not per event. */
  readonly #byRelation = new WeakMap<Relation, Batching>();
  #adaptedMs = 0;

  constructor(options: SinkPace) {
    this.#options = options;
  }

  /** Most bytes of a batch, whichever tables it is of. */
  get bytesMax(): number {
    const { base, tables } = this.#options;
    return Math.max(base.bytesMax, ...tables.map(({ batching }) => batching.bytesMax));
  }

  /** Of the events that came together: the shortest wait and the smallest size among their tables. */
  of(events: readonly ChangeEvent[]): BatchConfig {
    const { base, tables } = this.#options;
    if (tables.length === 0) return this.#now(base);
    let found: BatchConfig | null = null;
    let last: Relation | null = null;
    for (const { relation } of events) {
      if (relation === null || relation === last) continue;
      last = relation;
      const one = this.#now(this.#ofTable(relation));
      found = found === null ? one : smaller(found, one);
    }
    return found ?? this.#now(base);
  }

  /** After each batch: what part of the time since the one before the sink has spent on it, from 0 to 1. */
  spent(share: number): void {
    if (share > BUSY) this.#adaptedMs = Math.max(FIRST_LINGER_MS, this.#adaptedMs * 2);
    else if (share < EASY) this.#adaptedMs = this.#adaptedMs <= FIRST_LINGER_MS ? 0 : this.#adaptedMs / 2;
    const most = Math.max(
      this.#options.base.lingerMs,
      ...this.#options.tables.map(({ batching }) => batching.lingerMs),
    );
    this.#adaptedMs = Math.min(this.#adaptedMs, most);
  }

  #now(batching: Batching): BatchConfig {
    return batching.adaptive ? { ...batching, lingerMs: Math.min(this.#adaptedMs, batching.lingerMs) } : batching;
  }

  #ofTable(relation: Relation): Batching {
    let batching = this.#byRelation.get(relation);
    if (!batching) {
      const { base, tables } = this.#options;
      const { schema, table } = relation;
      const own = tables.find(({ patterns }) => patterns.some((pattern) => matchesPattern(pattern, schema, table)));
      batching = own?.batching ?? base;
      this.#byRelation.set(relation, batching);
    }
    return batching;
  }
}

/** In each respect what holds up least. */
export function smaller(a: BatchConfig, b: BatchConfig): BatchConfig {
  return {
    rowsMax: Math.min(a.rowsMax, b.rowsMax),
    bytesMax: Math.min(a.bytesMax, b.bytesMax),
    lingerMs: Math.min(a.lingerMs, b.lingerMs),
  };
}
