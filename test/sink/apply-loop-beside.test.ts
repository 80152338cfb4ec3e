import { describe, expect, it } from 'vitest';
import { WaltideError } from '../../src/errors.ts';
import type { Delivery } from '../../src/event/batch.ts';
import type { ChangeEvent } from '../../src/event/change-event.ts';
import { CopiedRows, CopyEvent } from '../../src/event/copied-rows.ts';
import { createLog } from '../../src/log.ts';
import { ApplyLoop } from '../../src/sink/apply-loop.ts';
import type { Beside } from '../../src/sink/beside.ts';
import { Pace } from '../../src/sink/pace.ts';
import type { Subscription } from '../../src/transport/transport.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { events, relation, snapshotEvents } from './duckdb/support.ts';

/*
 * Goal: what the loop does around a chunk that the sink applies beside the stream. Method: a sink whose chunk is held until the
 * test lets go of it; what the sink is given, and what the subscription is told, is written down in order.
 */
const item = relation('item', [['id', 'int8']]);
const ROWS = 10_000;

const at = (lsn: bigint): Pick<Delivery, 'bytes' | 'offsets' | 'complete'> => ({
  bytes: 1,
  offsets: [{ partition: '', position: { commitLsn: lsn, seq: 0 }, next: null }],
  complete: true,
});
const change = (lsn: bigint, complete = true): Delivery => ({
  events: events([['c', item, [String(lsn)]]]),
  ...at(lsn),
  complete,
});

function chunk(lsn: bigint): Delivery {
  const [{ transaction }] = snapshotEvents('chunks', 'incremental', [['t', item]]) as [ChangeEvent];
  const bytes = Buffer.from('1\n'.repeat(ROWS));
  const starts = Int32Array.from({ length: ROWS }, (_, i) => i * 2);
  const copied = new CopiedRows(
    item,
    bytes,
    starts,
    starts.map((start) => start + 2),
  );
  return { events: [new CopyEvent(transaction, ROWS, ROWS, 0n, copied)], ...at(lsn) };
}

class BesideSink extends MemorySink {
  readonly log: string[] = [];
  passes = true;
  /** Ends the load of the chunk. */
  settle!: { resolve(durable: boolean): void; reject(error: Error): void };

  async beside(delivery: Delivery): Promise<Beside> {
    this.log.push('chunk begun');
    const done = new Promise<boolean>((resolve, reject) => {
      this.settle = { resolve, reject };
    });
    const rest = { ...delivery, events: events([['r', item, ['rest']]]) };
    return { done, passes: () => this.passes, rest: async () => rest };
  }

  override async apply(delivery: Delivery): Promise<boolean> {
    await super.apply(delivery);
    for (const { op, after } of delivery.events) this.log.push(`applied ${op} ${after?.text(0)}`);
    return delivery.complete;
  }
}

interface Running {
  readonly sink: BesideSink;
  readonly reasons: string[];
  push(...deliveries: Delivery[]): void;
  end(): Promise<void>;
}

function run(): Running {
  const sink = new BesideSink();
  const queue: Delivery[] = [];
  const known: Delivery[] = [];
  let wake: (() => void) | null = null;
  const subscription: Subscription = {
    startsEmpty: false,
    receive: async (signal) => {
      while (queue.length === 0)
        await new Promise<void>((resolve, reject) => {
          wake = resolve;
          signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
        });
      return queue.shift()!;
    },
    taken: (delivery) => sink.log.push(`taken ${known.indexOf(delivery)}`),
    applied: (delivery) => sink.log.push(`told ${known.indexOf(delivery)}`),
    appliedLsn: () => 0n,
    receivedLsn: () => 0n,
    publishedLsn: () => 0n,
    close: async () => {},
  };
  const stop = new AbortController();
  const reasons: string[] = [];
  const loop = new ApplyLoop({
    sink,
    subscription,
    state: { stopped: [], tables: null },
    pace: new Pace({ base: { rowsMax: 1, bytesMax: 1000, lingerMs: 1, adaptive: false }, tables: [] }),
    breaker: { failuresMax: 8, openMs: 30_000 },
    letters: null,
    log: createLog({ level: 'fatal', format: 'json' }),
    beginAgain: (reason) => {
      reasons.push(reason);
      stop.abort();
    },
  });
  const running = loop.run(stop.signal);
  return {
    sink,
    reasons,
    push: (...deliveries) => {
      known.push(...deliveries);
      queue.push(...deliveries);
      wake?.();
    },
    end: () => {
      stop.abort();
      return running;
    },
  };
}

/** What it takes on a busy machine. */
const PATIENCE = { timeout: 60_000 };
const become = (sink: BesideSink, ...log: string[]) => expect.poll(() => sink.log, PATIENCE).toEqual(log);

describe('a chunk beside the stream', () => {
  it('lets what comes after it be applied, and is told of once its offsets are behind those that are saved', async () => {
    const { sink, push, end } = run();
    push(chunk(10n));
    await become(sink, 'chunk begun');
    push(change(20n), change(30n));
    await become(sink, 'chunk begun', 'applied c 20', 'told 1', 'applied c 30', 'told 2');
    sink.log.length = 0;
    sink.settle.resolve(true);
    await become(sink, 'told 0');
    await end();
  });

  it('whose offsets are not saved yet saves them with what comes next, at once', async () => {
    const { sink, push, end } = run();
    push(chunk(10n));
    await become(sink, 'chunk begun');
    sink.settle.resolve(true);
    await become(sink, 'chunk begun', 'told 0');
    expect((await sink.open()).offsets).toEqual(at(10n).offsets);
    await end();
  });

  it('does not end a transaction that is open, nor is it told of before that has ended', async () => {
    const { sink, push, end } = run();
    push(chunk(10n));
    await become(sink, 'chunk begun');
    push(change(20n, false));
    await become(sink, 'chunk begun', 'applied c 20', 'taken 1');
    sink.settle.resolve(true);
    await new Promise((resolve) => setTimeout(resolve, 50));
    push(change(20n));
    await become(sink, 'chunk begun', 'applied c 20', 'taken 1', 'applied c 20', 'told 1', 'told 2', 'told 0');
    await end();
  });

  it('is waited for by what it does not let pass', async () => {
    const { sink, push, end } = run();
    sink.passes = false;
    push(chunk(10n));
    await become(sink, 'chunk begun');
    push(change(20n));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(sink.log).toEqual(['chunk begun']);
    sink.settle.resolve(true);
    await become(sink, 'chunk begun', 'applied c 20', 'told 1', 'told 0');
    await end();
  });

  it('that could not be stored has its turn before what waits for it', async () => {
    const { sink, push, end } = run();
    sink.passes = false;
    push(chunk(10n));
    await become(sink, 'chunk begun');
    push(change(20n));
    sink.settle.resolve(false);
    await become(sink, 'chunk begun', 'applied r rest', 'told 0', 'applied c 20', 'told 1');
    await end();
  });

  it('that could not be stored has its turn once the transaction that is open has ended', async () => {
    const { sink, push, end } = run();
    push(chunk(10n));
    await become(sink, 'chunk begun');
    push(change(20n, false));
    await become(sink, 'chunk begun', 'applied c 20', 'taken 1');
    sink.settle.resolve(false);
    await new Promise((resolve) => setTimeout(resolve, 50));
    push(change(20n));
    const ended = ['applied c 20', 'told 1', 'told 2'];
    await become(sink, 'chunk begun', 'applied c 20', 'taken 1', ...ended, 'applied r rest', 'told 0');
    await end();
  });

  it.each([
    ['is stored in part', new WaltideError('SINK', 'in part', 'Nothing.')],
    ['could not be stored, and is needed by the transaction that is open', null],
  ])('that %s lets the pipeline begin again', async (_what, error) => {
    const { sink, push, reasons, end } = run();
    push(chunk(10n));
    await become(sink, 'chunk begun');
    push(change(20n, false));
    await become(sink, 'chunk begun', 'applied c 20', 'taken 1');
    if (error) sink.settle.reject(error);
    else {
      sink.passes = false;
      sink.settle.resolve(false);
      push(change(20n));
    }
    await expect.poll(() => reasons, PATIENCE).toEqual([expect.stringContaining('lost what it was applying')]);
    expect(sink.log).not.toContain('told 0');
    await end();
  });
});
