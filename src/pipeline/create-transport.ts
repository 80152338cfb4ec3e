import type { Config } from '../config/schema.ts';
import type { Letters } from '../dead-letter/dead-letter.ts';
import type { Log } from '../log.ts';
import type { Transport } from '../transport/transport.ts';
import { VERSION } from '../version.ts';

/** Loads what the kind of transport needs, and no more: a Kafka client costs 50 MB and 400 ms. */
export async function createTransport(config: Config, log: Log, letters: Letters): Promise<Transport> {
  const { transport } = config;
  if (transport.type === 'in-process') return new (await import('../transport/in-process.ts')).InProcessTransport();
  const { createKafkaTransport } = await import('../transport/kafka/kafka-transport.ts');
  // The one format so far; `transport.format` chooses among them.
  const { createJsonCodec } = await import('../event/json.ts');
  return createKafkaTransport(transport, {
    log,
    codec: (source) => createJsonCodec({ ...source, version: VERSION }),
    letters,
  });
}
