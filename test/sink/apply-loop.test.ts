import { describe, expect, it } from 'vitest';
import { WaltideError } from '../../src/errors.ts';
import { createLog } from '../../src/log.ts';
import { ApplyLoop } from '../../src/sink/apply-loop.ts';
import type { Subscription } from '../../src/transport/transport.ts';
import { MemorySink } from '../support/memory-sink.ts';

describe('ApplyLoop', () => {
  it('ends with the final error of its subscription, also while it is idle', { timeout: 5000 }, async () => {
    const gone = new WaltideError('TOPIC_MISSING', 'the topic is gone', 'Copy anew.');
    const subscription: Subscription = {
      startsEmpty: false,
      receive: () => new Promise((_resolve, reject) => setTimeout(reject, 100, gone)),
      taken: () => {},
      applied: () => {},
      appliedLsn: () => 0n,
      publishedLsn: () => 0n,
      close: async () => {},
    };
    const loop = new ApplyLoop({
      sink: new MemorySink(),
      subscription,
      state: { stopped: [], tables: null },
      batch: { rowsMax: 10, bytesMax: 1000, lingerMs: 1 },
      log: createLog({ level: 'fatal', format: 'json' }),
    });
    await expect(loop.run(new AbortController().signal)).rejects.toBe(gone);
  });
});
