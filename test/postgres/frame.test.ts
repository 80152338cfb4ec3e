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

/** Feeds chunks one after another and takes after each, as the source does. */
function throughFrames(chunks: readonly Buffer[]): Buffer {
  const frames = new FrameBuffer();
  const taken: Buffer[] = [];
  for (const chunk of chunks) {
    frames.push(chunk);
    const ready = frames.take();
    if (ready) taken.push(ready);
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
