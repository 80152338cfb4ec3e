import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { Shipment, ShipmentResult } from '../../../src/transport/kafka/produce.ts';
import type { Transport } from '../../../src/transport/transport.ts';
import { ensureSharedKafka } from '../../support/shared-kafka.ts';
import { Collector, IDENTITY, kafkaConfig, newPrefix, openTransport, relation, Tx } from './harness.ts';
import { readTopic } from './reader.ts';

/*
 * Goal: whatever goes wrong between us and the broker, every record arrives, in order, and a reader sees each once.
 * Method: the requests are real, but what they answer is tampered with at random, reproducibly by seed.
 */
type Send = (
  shipments: readonly Shipment[],
  send: () => Promise<(ShipmentResult | undefined)[]>,
) => Promise<(ShipmentResult | undefined)[]>;

const tamper = vi.hoisted(() => ({ send: null as Send | null }));

vi.mock('../../../src/transport/kafka/produce.ts', async (importOriginal) => {
  const original = await importOriginal<typeof import('../../../src/transport/kafka/produce.ts')>();
  const sendProduce: typeof original.sendProduce = (connection, shipments, timeoutMs) => {
    const send = () => original.sendProduce(connection, shipments, timeoutMs);
    return tamper.send ? tamper.send(shipments, send) : send();
  };
  return { ...original, sendProduce };
});

/** `WALTIDE_CHAOS_SEEDS=100 npx vitest run …` for a long night. */
const SEEDS = Array.from({ length: Number(process.env.WALTIDE_CHAOS_SEEDS ?? 4) }, (_, i) => i + 1);

let brokers: string[];
let open: Transport[] = [];

beforeAll(async () => {
  brokers = await ensureSharedKafka();
});

afterEach(async () => {
  tamper.send = null;
  await Promise.all(open.map((transport) => transport.close()));
  open = [];
});

/** Mulberry32: small, good enough, and the same for the same seed. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const refused = (code: number): ShipmentResult => ({ errorCode: code, baseOffset: -1n, message: null });

async function run(prefix: string, transactions: number): Promise<Collector> {
  const transport = openTransport(kafkaConfig(brokers, prefix, { partitions: 2, batchBytesMax: 20_000 }));
  open.push(transport);
  const send = tamper.send;
  tamper.send = null;
  await transport.openCapture(IDENTITY, null);
  tamper.send = send;
  const tables = [relation('a'), relation('b')];
  const published: Promise<void>[] = [];
  for (let i = 0; i < transactions; i++) {
    const tx = new Tx(BigInt(1000 * (i + 1)));
    for (let k = 0; k < 6; k++) tx.insert(tables[k & 1]!, i, `${i}.${k} ${'z'.repeat(200)}`);
    published.push(transport.publish(tx.batch()));
    if (i % 5 === 0) await new Promise((resolve) => setTimeout(resolve, 2));
  }
  await Promise.all(published);
  tamper.send = null;
  const collector = new Collector(await transport.subscribe('sink', []));
  await collector.until(() => collector.subscription.appliedLsn() === BigInt(1000 * transactions) + 32n);
  return collector;
}

function expectAll(collector: Collector, transactions: number): void {
  for (const table of ['a', 'b']) {
    const seen = collector.events.filter((event) => event.relation!.table === table);
    expect(seen).toHaveLength(transactions * 3);
    const perKey = new Map<string, string[]>();
    for (const event of seen) {
      const key = event.after!.text(0)!;
      perKey.set(key, [...(perKey.get(key) ?? []), event.after!.text(1)!.split(' ')[0]!]);
    }
    const offset = table === 'a' ? 0 : 1;
    for (const [key, notes] of perKey) expect(notes).toEqual([0, 2, 4].map((k) => `${key}.${k + offset}`));
  }
}

describe('with broken connections and changing leaders', () => {
  it.each(SEEDS)('everything is in the log exactly once (seed %i)', async (seed) => {
    const next = random(seed);
    tamper.send = async (shipments, send) => {
      const dice = next();
      // The broker never sees it; the broker does it, but we do not learn so; it is refused for now.
      if (dice < 0.06) throw new Error('connection reset');
      if (dice < 0.12) {
        await send();
        throw new Error('connection reset');
      }
      if (dice < 0.2) return shipments.map(() => refused(6));
      if (dice < 0.24) return shipments.map(() => undefined);
      return send();
    };
    const prefix = newPrefix();
    const collector = await run(prefix, 120);
    expectAll(collector, 120);
    for (const table of ['a', 'b']) {
      const records = await readTopic(brokers, `${prefix}.public.${table}`);
      expect(records).toHaveLength(360);
    }
  });
});

describe('with a broker that forgets producers', () => {
  it.each(SEEDS)('a reader sees everything once, although the log holds some of it twice (seed %i)', async (seed) => {
    const next = random(seed);
    tamper.send = async (shipments, send) => {
      const results = await send();
      const dice = next();
      if (dice < 0.15) {
        return shipments.map(() => refused([45, 59, 47][Math.floor(next() * 3)]!));
      }
      // What is too old to be recognised: done, but nobody knows where.
      if (dice < 0.2) return results.map((result) => (result?.errorCode === 0 ? refused(46) : result));
      if (dice < 0.25) throw new Error('connection reset');
      return results;
    };
    const collector = await run(newPrefix(), 100);
    expectAll(collector, 100);
  });
});
