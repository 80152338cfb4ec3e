import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type KafkaServer, startKafka } from '../../support/kafka-server.ts';
import {
  Collector,
  closedAfterTest,
  IDENTITY,
  kafkaConfig,
  newPrefix,
  openTransport,
  relation,
  Tx,
} from './harness.ts';
import { readTopic } from './reader.ts';

let kafka: KafkaServer;

beforeAll(async () => {
  kafka = await startKafka();
});

afterAll(async () => {
  await kafka.stop();
});

describe('a broker that is killed and comes back', () => {
  it('loses and repeats nothing, in order, while publishing and reading go on', { timeout: 300_000 }, async () => {
    const prefix = newPrefix();
    const transport = closedAfterTest(openTransport(kafkaConfig(kafka.brokers, prefix)));
    await transport.openCapture(IDENTITY, null);
    const table = relation('orders');
    const collector = new Collector(await transport.subscribe('sink', []));
    let last: Promise<void> = Promise.resolve();
    let id = 0;
    const stop = new AbortController();
    const publishing = (async () => {
      while (!stop.signal.aborted) {
        const tx = new Tx(BigInt(1000 * (id + 1)));
        for (let i = 0; i < 20; i++) tx.insert(table, id, `${i}`);
        id++;
        last = transport.publish(tx.batch());
        await sleep(5);
        while (transport.bytesInFlight > 200_000 && !stop.signal.aborted) await sleep(5);
      }
    })();
    for (let round = 0; round < 2; round++) {
      await collector.during(500);
      kafka.kill();
      const restarting = kafka.restart();
      await collector.during(1500);
      await restarting;
    }
    await collector.during(1000);
    stop.abort();
    await publishing;
    await last;
    await collector.until(() => collector.events.length === id * 20, 60_000);
    const expected = Array.from({ length: id * 20 }, (_, i) => `c ${Math.floor(i / 20)}:${i % 20}`);
    expect(collector.lines).toEqual(expected);
    await collector.until(() => collector.subscription.appliedLsn() === BigInt(1000 * id) + 32n);
    const records = await readTopic(kafka.brokers, `${prefix}.public.orders`);
    expect(records.map(({ value }) => (value!.after as { id: number }).id)).toEqual(
      expected.map((_, i) => Math.floor(i / 20)),
    );
  });
});

describe('brokers that do not answer', () => {
  it.each([
    ['refuse', false],
    ['stay silent', true],
  ])('are an error in time where they %s', async (_what, silent) => {
    const server = createServer(() => {});
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    // Nobody listens on port 1; one that was free a moment ago may be somebody's by now.
    const port = silent ? (server.address() as { port: number }).port : 1;
    const transport = closedAfterTest(openTransport(kafkaConfig([`127.0.0.1:${port}`], newPrefix())));
    const error = await transport.openCapture(IDENTITY, null).catch((cause: unknown) => cause);
    expect(error).toMatchObject({
      code: 'TRANSPORT_UNREACHABLE',
      message: expect.stringContaining(`127.0.0.1:${port}`),
    });
    server.close();
  });

  it('do not hold up closing', async () => {
    const transport = openTransport(kafkaConfig(['127.0.0.1:1'], newPrefix()));
    const opening = transport.openCapture(IDENTITY, null).catch((error: unknown) => error);
    await sleep(200);
    await transport.close();
    expect(await opening).toMatchObject({ code: 'TRANSPORT' });
  });
});
