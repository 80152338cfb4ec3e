import { expect, it } from 'vitest';
import type { Batch } from '../../src/event/batch.ts';
import { InProcessTransport } from '../../src/transport/in-process.ts';
import { events, relation, snapshotEvents } from '../sink/duckdb/support.ts';

const item = relation('item', [['id', 'int8']]);
const signal = new AbortController().signal;
const batch = (commitEndLsn: bigint | null, snapshot = false): Batch => ({
  events: snapshot ? snapshotEvents('x', 'initial', [['t', item]]) : events([['c', item, ['1']]]),
  bytes: 100,
  commitEndLsn,
});

it('frees the memory of what a sink has taken, and is durable when every sink has applied it', async () => {
  const transport = new InProcessTransport();
  const one = await transport.subscribe('one', []);
  const two = await transport.subscribe('two', []);
  let durable = false;
  const published = transport.publish(batch(null)).then(() => (durable = true));
  const first = await one.receive(signal);
  const second = await two.receive(signal);
  one.taken(first);
  one.taken(first);
  expect(transport.bytesInFlight).toBe(100);
  two.taken(second);
  expect(transport.bytesInFlight).toBe(0);
  one.applied(first);
  await Promise.resolve();
  expect(durable).toBe(false);
  two.applied(second);
  await published;
  expect(transport.bytesInFlight).toBe(0);
});

it('says where a delivery ends inside a source transaction; rows of a snapshot are none', async () => {
  const transport = new InProcessTransport();
  const subscription = await transport.subscribe('one', []);
  for (const one of [batch(null), batch(10n ** 9n), batch(null, true)]) void transport.publish(one);
  const complete = [];
  for (let i = 0; i < 3; i++) complete.push((await subscription.receive(signal)).complete);
  expect(complete).toEqual([false, true, true]);
});
