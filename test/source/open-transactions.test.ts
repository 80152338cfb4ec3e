import { existsSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { OpenTransactions } from '../../src/source/open-transactions.ts';
import { PgoutputError } from '../../src/source/pgoutput.ts';
import type { OpenMessage } from '../../src/source/pgoutput-messages.ts';
import { PreparedHold } from '../../src/source/prepared-hold.ts';
import { copyData, message, streamed } from './messages.ts';

function open(memoryBytesMax: number, folder = join(mkdtempSync(join(tmpdir(), 'waltide-test-')), 'spill', 'slot')) {
  return { open: new OpenTransactions({ memoryBytesMax, folder, hold: new PreparedHold() }), folder };
}

const change = (xid: number, value: string): Buffer => copyData(1n, streamed(xid, message.insert(1, [value])));
const note = (xid: number): Buffer => copyData(1n, streamed(xid, message.logical(true, 1n, 'audit', Buffer.from('x'))));
const begin = (xid: number, first: boolean): OpenMessage => ({ type: 'streamStart', xid, first });
const stop: OpenMessage = { type: 'streamStop' };
const abort = (xid: number, subxid: number): OpenMessage => ({
  ...{ type: 'streamAbort', xid, subxid, abortLsn: null, abortTime: null },
});
const commit = (xid: number): OpenMessage => ({
  ...{ type: 'streamCommit', xid, commitLsn: 10n, endLsn: 20n, commitTime: 0n },
});

async function block(open: OpenTransactions, xid: number, first: boolean, frames: readonly Buffer[]): Promise<void> {
  await open.take(begin(xid, first));
  const all = Buffer.concat(frames);
  expect(open.gather(all, 0)).toBe(all.length);
  await open.take(stop);
  await open.spillBeyond();
}

async function delivered(open: OpenTransactions, xid: number): Promise<Buffer> {
  const committed = await open.take(commit(xid));
  const parts: Buffer[] = [];
  for await (const part of committed!.parts()) parts.push(part);
  await committed!.close();
  return Buffer.concat(parts);
}

describe('OpenTransactions', () => {
  it('gives back interleaved transactions as they came, from memory and from disk, and leaves nothing behind', async () => {
    const step = fc.tuple(
      fc.integer({ min: 1, max: 4 }),
      fc.array(fc.integer({ min: 0, max: 3000 }), { maxLength: 8 }),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 20 }),
        fc.integer({ min: 0, max: 60_000 }),
        async (steps, memory) => {
          const { open: transactions, folder } = open(memory);
          const expected = new Map<number, Buffer[]>();
          for (const [xid, sizes] of steps) {
            const frames = sizes.map((size) => change(xid, 'x'.repeat(size)));
            await block(transactions, xid, !expected.has(xid), frames);
            expected.set(xid, [...(expected.get(xid) ?? []), ...frames]);
            expect(transactions.status.memoryBytes).toBeLessThanOrEqual(memory);
          }
          for (const [xid, frames] of expected)
            expect((await delivered(transactions, xid)).equals(Buffer.concat(frames))).toBe(true);
          expect(transactions.status).toEqual({ transactions: 0, memoryBytes: 0, spilledBytes: 0 });
          await transactions.close();
          expect(existsSync(folder)).toBe(false);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('cuts off what was rolled back to savepoints, nested ones too, wherever it lies', async () => {
    // A program: savepoints opened (each a new subtransaction) and rolled back, rows written in the innermost.
    const action = fc.oneof(fc.constant('open'), fc.constant('back'), fc.integer({ min: 1, max: 2000 }));
    await fc.assert(
      fc.asyncProperty(fc.array(action, { maxLength: 60 }), fc.constantFrom(0, 9000, 1e9), async (actions, memory) => {
        const { open: transactions } = open(memory);
        const top = 100;
        let next = top;
        const stack: { xid: number; children: number[]; kept: number }[] = [{ xid: top, children: [], kept: 0 }];
        let kept: Buffer[] = [];
        let first = true;
        for (const step of actions) {
          if (step === 'open') {
            const xid = ++next;
            for (const outer of stack) outer.children.push(xid);
            stack.push({ xid, children: [], kept: kept.length });
          } else if (step !== 'back') {
            const frame = change(stack.at(-1)!.xid, 'y'.repeat(step));
            await block(transactions, top, first, [frame]);
            first = false;
            kept.push(frame);
          } else if (stack.length > 1 && !first) {
            const { xid, children, kept: before } = stack.pop()!;
            for (const child of [...children, xid]) await transactions.take(abort(top, child));
            kept = kept.slice(0, before);
          }
        }
        if (!first) expect((await delivered(transactions, top)).equals(Buffer.concat(kept))).toBe(true);
        await transactions.close();
      }),
      { numRuns: 100 },
    );
  });

  it('does not guess whether logical messages were rolled back', async () => {
    const { open: transactions } = open(1e9);
    await block(transactions, 1, true, [change(1, 'a'), note(1), note(1), change(2, 'b'), change(1, 'c')]);
    await expect(transactions.take(abort(1, 2))).rejects.toMatchObject({ code: 'STREAMING' });
    await block(transactions, 3, true, [note(3), change(3, 'a'), change(4, 'b'), note(3)]);
    expect(await transactions.take(abort(3, 4))).toBeNull();
    expect((await delivered(transactions, 3)).equals(Buffer.concat([note(3), change(3, 'a')]))).toBe(true);
    await transactions.close();
  });

  it('says that it cannot spill, by an error that is worth trying again', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'waltide-test-'));
    writeFileSync(join(folder, 'spill'), 'a file where a folder should be');
    const { open: transactions } = open(0, join(folder, 'spill', 'slot'));
    await expect(block(transactions, 1, true, [change(1, 'a')])).rejects.toMatchObject({ code: 'SPILL', retry: true });
  });

  it('refuses what makes no sense', async () => {
    const { open: transactions } = open(1e9);
    await expect(transactions.take(commit(1))).rejects.toThrow(PgoutputError);
    await expect(transactions.take(stop)).rejects.toThrow(PgoutputError);
    await expect(transactions.take(begin(1, false))).rejects.toThrow(/never begun/);
    await transactions.take(begin(1, true));
    await expect(transactions.take(begin(2, true))).rejects.toThrow(/inside another/);
  });
});

describe('PreparedHold', () => {
  it('holds below each PREPARE until its COMMIT PREPARED is durable, or it is rolled back', () => {
    const hold = new PreparedHold();
    expect(hold.bound(50n)).toBe(50n);
    hold.prepared(1, 60n);
    hold.prepared(2, 80n);
    expect([hold.bound(50n), hold.bound(70n), hold.bound(100n)]).toEqual([50n, 60n, 60n]);
    hold.committed(1, 120n);
    expect([hold.bound(119n), hold.bound(120n)]).toEqual([60n, 80n]);
    hold.rolledBack(2);
    expect(hold.bound(130n)).toBe(130n);
    expect(hold.size).toBe(0);
  });
});
