import type { Batch } from '../event/batch.ts';
import type { ChangeEvent, Transaction } from '../event/change-event.ts';
import type { Lsn } from '../event/lsn.ts';
import { WATERMARK_PREFIX } from './snapshot.ts';
import type { TableWatch } from './table-watch.ts';

/** A batch, and who waits for it. */
export interface Woven {
  readonly batch: Batch;
  /** The slot may not be acknowledged past the batch before this is resolved. */
  readonly hold: Promise<unknown> | null;
  /** Called once the batch is durable downstream. */
  readonly durable: (() => void) | null;
}

/** What is put into the stream at one watermark. */
export interface Insertion {
  /** Events at the watermark's own transaction, with seq from 1, and the bytes they keep alive. Called once, in stream order. */
  events(transaction: Transaction): { readonly events: readonly ChangeEvent[]; readonly bytes: number };
  /** They are durable downstream. */
  durable(): void;
}

/** Rows that stand at one LSN, between what was committed before it and what was committed after. The stream waits for them. */
export interface Interlude {
  /** Resolves with the LSN; the stream stands still meanwhile. Null calls it off. */
  prepare(): Promise<Lsn | null>;
  /** Called where the stream has reached that LSN. */
  batches(): AsyncIterable<Woven>;
}

/**
 * Weaves the rows of snapshots into the stream: each chunk at its watermark, as events of the watermark's own
 * transaction. Batches in, batches out, in order; without a snapshot under way they go through as they are.
 */
export class Weave {
  readonly #watches = new Map<number, TableWatch>();
  readonly #insertions = new Map<string, Insertion>();
  readonly #interludes: Interlude[] = [];
  #holds: Promise<unknown>[] = [];

  /** Lets `watch` see every event of its table, from the next batch on. */
  watch(watch: TableWatch): void {
    this.#watches.set(watch.oid, watch);
  }

  unwatch(watch: TableWatch): void {
    if (this.#watches.get(watch.oid) === watch) this.#watches.delete(watch.oid);
  }

  /** When the watermark with this nonce comes, `insertion` takes its place. */
  expect(nonce: string, insertion: Insertion): void {
    this.#insertions.set(nonce, insertion);
  }

  forget(nonce: string): void {
    this.#insertions.delete(nonce);
  }

  /** Before the next batch is taken from the source. */
  interlude(interlude: Interlude): void {
    this.#interludes.push(interlude);
  }

  /** The batch being woven is not acknowledged before `work` is resolved. For a TableWatch's callbacks. */
  hold(work: Promise<unknown>): void {
    // Looked at only once the batch is durable; until then a rejection has nobody else.
    work.catch(() => {});
    this.#holds.push(work);
  }

  async *weave(batches: AsyncIterable<Batch>): AsyncGenerator<Woven> {
    for await (const batch of batches) {
      for (const woven of this.#one(batch)) yield woven;
      for (let next = this.#interludes.shift(); next; next = this.#interludes.shift()) yield* this.#play(next, batches);
    }
  }

  /** The stream up to the interlude's LSN, then the interlude, then the rest of the batch that it fell into. */
  async *#play(interlude: Interlude, batches: AsyncIterable<Batch>): AsyncGenerator<Woven> {
    const lsn = await interlude.prepare();
    if (lsn === null) return;
    const iterator = batches[Symbol.asyncIterator]();
    for (;;) {
      const { value: batch, done } = await iterator.next();
      if (done) return;
      const at = batch.events.findIndex(({ transaction }) => transaction.commitLsn >= lsn);
      if (at < 0 && (batch.commitEndLsn === null || batch.commitEndLsn < lsn)) {
        for (const woven of this.#one(batch)) yield woven;
        continue;
      }
      const count = at < 0 ? batch.events.length : at;
      // The interlude's rows stand at `lsn - 1`, where no commit can be.
      if (count > 0) for (const woven of this.#one(slice(batch, 0, count, lsn - 1n))) yield woven;
      yield* interlude.batches();
      for (const woven of this.#one(slice(batch, count, batch.events.length, batch.commitEndLsn))) yield woven;
      return;
    }
  }

  /** Synchronous, so that what is noted and what is woven cannot change places. */
  *#one(batch: Batch): Generator<Woven> {
    const { events } = batch;
    let from = 0;
    let foreign = false;
    for (let i = 0; i < events.length; i++) {
      const event = events[i]!;
      if (event.op === 'm' && event.message?.prefix === WATERMARK_PREFIX) {
        const { transaction } = event;
        const nonce = event.message.content.toString();
        const insertion = this.#insertions.get(nonce);
        if (!insertion) {
          foreign = true;
          continue;
        }
        this.#insertions.delete(nonce);
        // A watermark is a transaction of its own: all that was committed before its commit record is in front of it.
        if (i > from) yield this.#woven(part(batch, from, i, transaction.commitLsn), null);
        from = i + 1;
        const inserted = insertion.events(transaction);
        // A batch with nothing in it must end somewhere; before the watermark everything was in front of it.
        const nowhere = inserted.events.length === 0 ? transaction.commitLsn : null;
        const commitEndLsn = events[from]?.transaction.commitLsn ?? batch.commitEndLsn ?? nowhere;
        yield this.#woven({ ...inserted, commitEndLsn }, () => insertion.durable());
      } else if (this.#watches.size > 0 && event.relation) this.#watches.get(event.relation.oid)?.note(event);
    }
    if (from === 0 && !foreign) yield this.#woven(batch, null);
    else if (from < events.length || from === 0) {
      const rest = part(batch, from, events.length, batch.commitEndLsn);
      if (rest.events.length > 0 || rest.commitEndLsn !== null) yield this.#woven(rest, null);
    }
  }

  #woven(batch: Batch, durable: (() => void) | null): Woven {
    const holds = this.#holds;
    if (holds.length === 0) return { batch, hold: null, durable };
    this.#holds = [];
    const hold = Promise.all(holds);
    hold.catch(() => {});
    return { batch, hold, durable };
  }
}

function slice(batch: Batch, from: number, to: number, commitEndLsn: Lsn | null): Batch {
  const all = batch.events.length;
  const bytes = all === 0 ? batch.bytes : Math.ceil((batch.bytes * (to - from)) / all);
  return { events: batch.events.slice(from, to), bytes, commitEndLsn };
}

/** As slice, without watermarks that nobody waits for: those of other pipelines, and of one that died before they came. */
function part(batch: Batch, from: number, to: number, commitEndLsn: Lsn | null): Batch {
  const { events, bytes } = slice(batch, from, to, commitEndLsn);
  return { events: events.filter(({ message }) => message?.prefix !== WATERMARK_PREFIX), bytes, commitEndLsn };
}
