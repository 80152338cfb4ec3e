import { describe, expect, it } from 'vitest';
import { RejectedError, WaltideError } from '../../src/errors.ts';
import type { Delivery } from '../../src/event/batch.ts';
import type { ChangeEvent } from '../../src/event/change-event.ts';
import { CopiedRows, CopyEvent, countRows } from '../../src/event/copied-rows.ts';
import { createLog } from '../../src/log.ts';
import { ApplyLoop, type ApplyLoopOptions } from '../../src/sink/apply-loop.ts';
import { Pace } from '../../src/sink/pace.ts';
import type { Subscription } from '../../src/transport/transport.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { events, relation, snapshotEvents } from './duckdb/support.ts';

const item = relation('item', [['id', 'int8']]);

/** One transaction of `count` events in as many deliveries. */
function transaction(count: number): Delivery[] {
  return events(Array.from({ length: count }, (_, i) => ['c', item, [String(i)]] as const)).map((event, i) => ({
    events: [event],
    bytes: 10,
    offsets: [],
    complete: i === count - 1,
  }));
}

/** Rows that one chunk of an incremental snapshot has read. */
function chunk(count: number): Delivery {
  const [{ transaction }] = snapshotEvents('chunks', 'incremental', [['t', item]]) as [ChangeEvent];
  const lines = Array.from({ length: count }, (_, i) => `${i}\n`);
  const ends = Int32Array.from(
    lines,
    (
      (sum) => (line) =>
        (sum += line.length)
    )(0),
  );
  const starts = Int32Array.from(lines, (line, i) => ends[i]! - line.length);
  const copied = new CopiedRows(item, Buffer.from(lines.join('')), starts, ends);
  return { events: [new CopyEvent(transaction, count, count, 0n, copied)], bytes: 1, offsets: [], complete: true };
}

/** Gives out the deliveries, then nothing; notes what it is told. */
function subscriptionOf(deliveries: readonly Delivery[], told: string[]): Subscription {
  const queue = [...deliveries];
  const number = (delivery: Delivery): number => deliveries.indexOf(delivery);
  return {
    startsEmpty: false,
    receive: (signal) =>
      queue.length > 0
        ? Promise.resolve(queue.shift()!)
        : new Promise((_resolve, reject) => {
            if (signal.aborted) reject(signal.reason as Error);
            signal.addEventListener('abort', () => reject(signal.reason));
          }),
    taken: (delivery) => told.push(`taken ${number(delivery)} with ${delivery.events.length}`),
    applied: (delivery) => told.push(`applied ${number(delivery)} with ${delivery.events.length}`),
    appliedLsn: () => 0n,
    receivedLsn: () => 0n,
    publishedLsn: () => 0n,
    close: async () => {},
  };
}

const options = (sink: MemorySink, subscription: Subscription): ApplyLoopOptions => ({
  sink,
  subscription,
  state: { stopped: [], tables: null },
  pace: new Pace({ base: { rowsMax: 1, bytesMax: 1000, lingerMs: 1, adaptive: false }, tables: [] }),
  breaker: { failuresMax: 8, openMs: 30_000 },
  letters: null,
  log: createLog({ level: 'fatal', format: 'json' }),
  beginAgain: () => {},
});

/** Keeps a transaction open until its end, as DuckDB does. */
class PartsSink extends MemorySink {
  override async apply(delivery: Delivery): Promise<boolean> {
    await super.apply(delivery);
    return delivery.complete;
  }
}

describe('ApplyLoop', () => {
  it('ends with the final error of its subscription, also while it is idle', { timeout: 60_000 }, async () => {
    const gone = new WaltideError('TOPIC_MISSING', 'the topic is gone', 'Copy anew.');
    const subscription: Subscription = {
      ...subscriptionOf([], []),
      receive: () => new Promise((_resolve, reject) => setTimeout(reject, 100, gone)),
    };
    const loop = new ApplyLoop(options(new MemorySink(), subscription));
    await expect(loop.run(new AbortController().signal)).rejects.toBe(gone);
  });

  it('frees the parts of a transaction when they are taken, and calls them applied at its end', async () => {
    const told: string[] = [];
    const end = new AbortController();
    const subscription = subscriptionOf(transaction(3), told);
    const loop = new ApplyLoop(
      options(new PartsSink(), {
        ...subscription,
        applied: (delivery) => {
          subscription.applied(delivery);
          if (told.length === 5) end.abort();
        },
      }),
    );
    await loop.run(end.signal);
    expect(told).toEqual([
      'taken 0 with 1',
      'taken 1 with 1',
      'applied 0 with 0',
      'applied 1 with 0',
      'applied 2 with 1',
    ]);
    expect(loop.status).toMatchObject({ splits: 0, events: 3 });
  });

  it('counts a transaction that the sink made durable in the middle', async () => {
    const told: string[] = [];
    const end = new AbortController();
    const sink = new PartsSink();
    const apply = sink.apply.bind(sink);
    sink.apply = async (delivery) => {
      const whole = await apply(delivery);
      if (whole) end.abort();
      return whole || sink.events.length === 2;
    };
    const loop = new ApplyLoop(options(sink, subscriptionOf(transaction(4), told)));
    await loop.run(end.signal);
    expect(loop.status.splits).toBe(1);
    expect(told.slice(0, 4)).toEqual(['taken 0 with 1', 'applied 0 with 0', 'applied 1 with 1', 'taken 2 with 1']);
  });

  it.each([
    ['stops the table first where it is refused', new RejectedError('public', 'item', 'no'), 1],
    ['waits a little where it may heal', new WaltideError('SINK', 'lost', 'Wait.'), 0],
  ])('asks for a new beginning when an open transaction is lost; %s', async (_what, error, stopped) => {
    const end = new AbortController();
    const sink = new PartsSink();
    sink.before = async ({ complete }) => {
      if (complete) throw error;
    };
    const told: string[] = [];
    const reasons: string[] = [];
    const loop = new ApplyLoop({
      ...options(sink, subscriptionOf(transaction(2), told)),
      beginAgain: (reason) => {
        reasons.push(reason);
        end.abort();
      },
    });
    await loop.run(end.signal);
    expect(reasons).toEqual([`sink "memory" lost what it was applying: ${error.message}`]);
    expect(told).toEqual(['taken 0 with 1']);
    expect((await sink.open()).stopped).toHaveLength(stopped);
  });

  it('applies a large chunk of a snapshot by itself, at once, and small ones with what is around them', async () => {
    const told: string[] = [];
    const end = new AbortController();
    const change = (): Delivery => ({ events: events([['c', item, ['1']]]), bytes: 1, offsets: [], complete: true });
    const keepalive = (): Delivery => ({ events: [], bytes: 0, offsets: [], complete: true });
    const deliveries = [change(), change(), chunk(10_000), keepalive(), chunk(10_000), change(), chunk(9), change()];
    const subscription = subscriptionOf(deliveries, told);
    const sink = new MemorySink();
    const batches: number[] = [];
    const apply = sink.apply.bind(sink);
    sink.apply = (delivery) => {
      batches.push(countRows(delivery.events));
      return apply(delivery);
    };
    const loop = new ApplyLoop({
      ...options(sink, subscription),
      pace: new Pace({ base: { rowsMax: 1_000_000, bytesMax: 1e9, lingerMs: 2000, adaptive: false }, tables: [] }),
    });
    const running = loop.run(end.signal);
    await expect
      .poll(() => told.filter((what) => what.startsWith('applied')).length, { timeout: 60_000 })
      .toBe(deliveries.length);
    end.abort();
    await running;
    expect(batches).toEqual([2, 10_000, 10_000, 11]);
  });

  describe('with a table that may wait long', () => {
    const LONG_MS = 600_000;
    const pace = (): Pace =>
      new Pace({ base: { rowsMax: 1000, bytesMax: 1000, lingerMs: LONG_MS, adaptive: false }, tables: [] });
    const keepalive: Delivery = { events: [], bytes: 0, offsets: [], complete: true };

    it.each(['none', 'idle', 'now'] as const)('haste %s', async (haste) => {
      const told: string[] = [];
      const end = new AbortController();
      // A keepalive alone, then a change with another one behind it.
      const deliveries = [keepalive, ...transaction(1), { ...keepalive }];
      const subscription = subscriptionOf(deliveries, told);
      let received = 0;
      const loop = new ApplyLoop({
        ...options(new MemorySink(), {
          ...subscription,
          receive: async (signal) => {
            // The next only after the last was saved, if it is to be.
            if (received > 0) await new Promise((resolve) => setTimeout(resolve, 20));
            if (received++ === deliveries.length && haste !== 'now') setTimeout(() => end.abort(), 300);
            return subscription.receive(signal);
          },
          applied: (delivery) => {
            subscription.applied(delivery);
            if (told.length === deliveries.length) end.abort();
          },
        }),
        pace: pace(),
      });
      loop.hasten(haste);
      await loop.run(end.signal);
      const change = ['applied 1 with 1', 'applied 2 with 0'];
      expect(told).toEqual(haste === 'now' ? ['applied 0 with 0', ...change] : ['applied 0 with 0']);
    });

    it('is applied with another that may not', async () => {
      const told: string[] = [];
      const end = new AbortController();
      const urgent = relation('urgent', [['id', 'int8']]);
      const [first] = transaction(1);
      const second: Delivery = { events: events([['c', urgent, ['1']]]), bytes: 10, offsets: [], complete: true };
      const subscription = subscriptionOf([first!, second], told);
      const loop = new ApplyLoop({
        ...options(new MemorySink(), {
          ...subscription,
          applied: (delivery) => {
            subscription.applied(delivery);
            if (told.length === 2) end.abort();
          },
        }),
        pace: new Pace({
          base: { rowsMax: 1000, bytesMax: 1000, lingerMs: LONG_MS, adaptive: false },
          tables: [
            { patterns: ['public.urgent'], batching: { rowsMax: 10, bytesMax: 1000, lingerMs: 0, adaptive: false } },
          ],
        }),
      });
      await loop.run(end.signal);
      expect(told).toEqual(['applied 0 with 1', 'applied 1 with 1']);
    });
  });

  it('leaves a sink alone that fails again and again, and is back with the attempt that succeeds', async () => {
    const end = new AbortController();
    const sink = new MemorySink();
    const seen: string[] = [];
    let failures = 4;
    const told: string[] = [];
    const subscription = subscriptionOf(transaction(1), told);
    const loop = new ApplyLoop({
      ...options(sink, { ...subscription, applied: () => end.abort() }),
      breaker: { failuresMax: 2, openMs: 20 },
    });
    sink.before = async () => {
      await Promise.resolve();
      seen.push(loop.status.breaker);
      if (failures-- > 0) throw new WaltideError('SINK', 'down', 'Wait.');
    };
    await loop.run(end.signal);
    expect(seen).toEqual(['closed', 'closed', 'half-open', 'half-open', 'half-open']);
    expect(loop.status).toMatchObject({ breaker: 'closed', lastError: null, retries: 4, events: 1 });
  });
});
