import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { haveKafka, type KafkaServer, startKafka } from './kafka-server.ts';

/** Where test processes ask for the broker: workers inherit it from the process that ran the global setup. */
const ADDRESS = 'WALTIDE_TEST_KAFKA_ADDRESS';

let own: Promise<KafkaServer> | null = null;

/** Starts the broker of this process on first use. */
function ownKafka(): Promise<KafkaServer> {
  own ??= startKafka();
  return own;
}

/**
 * For the global setup: one broker for the whole test run, started when a test first asks for it, so that a run
 * without Kafka tests never pays for it. Returns the teardown.
 */
export async function offerSharedKafka(): Promise<() => Promise<void>> {
  if (!haveKafka().ok) return async () => {};
  const server = createServer((_request, response) => {
    ownKafka().then(
      (kafka) => response.end(JSON.stringify(kafka.brokers)),
      (error: unknown) => response.writeHead(500).end(String(error)),
    );
  });
  // Starting for the first time includes the download.
  server.requestTimeout = 0;
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  server.unref();
  process.env[ADDRESS] = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  return async () => {
    delete process.env[ADDRESS];
    server.close();
    if (own) await (await own).stop();
    own = null;
  };
}

/**
 * The brokers that all tests of this run share; use topic and group names of your own. Never stop or restart it:
 * a test that does so starts one for itself.
 */
export async function ensureSharedKafka(): Promise<string[]> {
  const address = process.env[ADDRESS];
  if (!address) return (await ownKafka()).brokers;
  const response = await fetch(address);
  const text = await response.text();
  if (!response.ok) throw new Error(text);
  return JSON.parse(text) as string[];
}
