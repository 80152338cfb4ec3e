import type { Config } from '../config/schema.ts';
import type { Log } from '../log.ts';
import { InProcessTransport } from '../transport/in-process.ts';
import type { Transport } from '../transport/transport.ts';

export function createTransport(config: Config, _log: Log): Transport {
  if (config.transport.type === 'in-process') return new InProcessTransport();
  throw new Error('not wired yet');
}
