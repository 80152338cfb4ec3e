import type { Config } from '../config/schema.ts';
import { createJsonCodec } from '../event/json.ts';
import type { Log } from '../log.ts';
import { InProcessTransport } from '../transport/in-process.ts';
import { createKafkaTransport } from '../transport/kafka/kafka-transport.ts';
import type { Transport } from '../transport/transport.ts';
import { VERSION } from '../version.ts';

export function createTransport(config: Config, log: Log): Transport {
  if (config.transport.type === 'in-process') return new InProcessTransport();
  // The one format so far; `transport.format` chooses among them.
  return createKafkaTransport(config.transport, {
    log,
    codec: (source) => createJsonCodec({ ...source, version: VERSION }),
  });
}
