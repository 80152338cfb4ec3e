import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FrameBuffer } from '../../src/postgres/frame.ts';
import { copyData, message } from '../source/messages.ts';

const stream = Buffer.concat([
  copyData(1n, message.begin(100n, 1n, 7)),
  copyData(2n, message.insert(5, ['1', 'a value that is somewhat longer', null])),
  copyData(3n, message.update(5, { kind: 'K', values: ['1'] }, ['2', undefined, 'x'])),
  copyData(4n, message.commit(100n, 148n, 1n)),
]);

type Take = (frames: FrameBuffer) => readonly Buffer[];
const joined: Take = (frames) => [frames.take() ?? Buffer.alloc(0)];
const inParts: Take = (frames) => frames.takeParts(0);

/** Feeds chunks one after another and takes after every `each` of them, as the source does. */
function throughFrames(chunks: readonly Buffer[], take = joined, each = 1): Buffer {
  const frames = new FrameBuffer();
  const taken: Buffer[] = [];
  for (const [i, chunk] of chunks.entries()) {
    frames.push(chunk);
    if ((i + 1) % each !== 0 && i + 1 < chunks.length) continue;
    for (const part of take(frames)) {
      let at = 0;
      while (at < part.length) at += 1 + part.readUInt32BE(at + 1);
      expect(at).toBe(part.length);
      taken.push(part);
    }
  }
  expect(frames.length).toBe(0);
  return Buffer.concat(taken);
}

describe('FrameBuffer', () => {
  it('gives whole messages wherever the stream is split in two', () => {
    for (let at = 1; at < stream.length; at++) {
      expect(throughFrames([stream.subarray(0, at), stream.subarray(at)]).equals(stream)).toBe(true);
    }
  });

  it('gives whole messages when every byte comes alone', () => {
    expect(throughFrames(Array.from(stream, (byte) => Buffer.from([byte]))).equals(stream)).toBe(true);
  });

  it('gives only whole messages for any split', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 1, max: stream.length - 1 })), (cuts) => {
        const edges = [0, ...cuts.sort((a, b) => a - b), stream.length];
        const chunks = edges.slice(1).map((edge, i) => stream.subarray(edges[i], edge));
        expect(throughFrames(chunks).equals(stream)).toBe(true);
      }),
    );
  });

  it('gives whole messages in parts for any split, however many chunks come at once', () => {
    const long = Buffer.concat([stream, copyData(5n, message.insert(5, ['2', 'x'.repeat(300), null])), stream]);
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.integer({ min: 1, max: long.length - 1 }), { maxLength: 60 }),
        fc.integer({ min: 1, max: 70 }),
        (cuts, each) => {
          const edges = [0, ...cuts.sort((a, b) => a - b), long.length];
          const chunks = edges.slice(1).map((edge, i) => long.subarray(edges[i], edge));
          expect(throughFrames(chunks, inParts, each).equals(long)).toBe(true);
        },
      ),
    );
    const bytes = Array.from(long, (byte) => Buffer.from([byte]));
    expect(throughFrames(bytes, inParts).equals(long)).toBe(true);
    expect(throughFrames(bytes, (frames) => frames.takeParts(), 7).equals(long)).toBe(true);
  });

  it('copies no message that lies in one chunk when it gives parts', () => {
    const frames = new FrameBuffer();
    frames.push(stream.subarray(0, stream.length - 3));
    frames.push(Buffer.concat([stream.subarray(stream.length - 3), stream]));
    const parts = frames.takeParts(0);
    expect(parts.map((part) => part.buffer === stream.buffer)).toEqual([true, false, false]);
    expect(Buffer.concat(parts).equals(Buffer.concat([stream, stream]))).toBe(true);
  });

  it('puts back what the next reader shall have', () => {
    const frames = new FrameBuffer();
    frames.push(stream.subarray(0, stream.length - 3));
    // The first message ends at byte 51.
    const first = frames.take()!;
    frames.unread(first.subarray(51));
    frames.push(stream.subarray(stream.length - 3));
    const all = Buffer.concat([first.subarray(0, 51), frames.take()!]);
    expect(all.equals(stream)).toBe(true);
  });
});
