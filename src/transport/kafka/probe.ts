import { once } from 'node:events';
import { connect as connectSocket, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { apiVersionsV3, metadataV12 } from '@platformatic/kafka';
import type { KafkaConfig } from '../../config/schema.ts';
import { messageOf, WaltideError } from '../../errors.ts';
import { addressOf, deepMessage, parseBroker } from './cluster.ts';
import { type BrokerAddress, Connections, connectionOptions, isAuthenticationError, Silence } from './connections.ts';

/** Looking must not take long: a broker that answers at all does so in milliseconds. */
const ANSWER_MS = 8_000;
const METADATA_KEY = 3;
const METADATA_VERSION = 12;

/** What came of asking one broker. */
export type Probe =
  | { readonly ok: true; readonly advertised: readonly string[] }
  | { readonly ok: false; readonly problem: string; readonly remedy: string };

/**
 * Asks one broker (host:port) what it speaks and who is in the cluster, as the transport would. Where that fails, finds
 * out what the port speaks instead. Never rejects, unless with CONFIG_INVALID for unreadable PEM files.
 */
export async function probeBroker(config: KafkaConfig, address: string): Promise<Probe> {
  const broker = parseBroker(address);
  const options = { ...connectionOptions(config), requestTimeout: Math.min(config.requestTimeoutMs, ANSWER_MS) };
  const connections = new Connections(config.clientId, options, new Silence());
  try {
    const { apiKeys } = await connections.call(broker, apiVersionsV3.api, 'waltide', '1');
    const { maxVersion = -1 } = apiKeys.find(({ apiKey }) => apiKey === METADATA_KEY) ?? {};
    if (maxVersion < METADATA_VERSION) return failed('is older than Kafka 3.0', 'Use brokers of Kafka 3.0 or newer.');
    const { brokers } = await connections.call(broker, metadataV12.api, [], false, false);
    return { ok: true, advertised: brokers.map(addressOf) };
  } catch (error) {
    if (error instanceof WaltideError) throw error;
    return await explain(config, broker, error);
  } finally {
    await connections.close();
  }
}

async function explain(config: KafkaConfig, broker: BrokerAddress, error: unknown): Promise<Probe> {
  if (isAuthenticationError(error))
    return failed(
      `refused to log in: ${deepMessage(error)}`,
      'Check transport.sasl: mechanism, username and password.',
    );
  const why = deepMessage(error);
  const open = await reaches(broker, config.connectTimeoutMs);
  if (open !== null) return failed(open, 'Check transport.brokers, and that they accept connections from here.');
  const wantsTls = config.ssl !== false;
  const [tls, plain] = await Promise.all([speaksTls(broker), speaksPlain(broker)]);
  if (tls && !wantsTls)
    return failed('speaks TLS, and transport.ssl is off', 'Set transport.ssl: true, or name the port for plain text.');
  if (plain && wantsTls)
    return failed('speaks plain text, and transport.ssl is on', 'Set transport.ssl: false, or name the port for TLS.');
  if (tls && /certificate|self.signed|CERT|altname/i.test(why))
    return failed(`has a certificate that is not trusted here: ${why}`, 'Give its authority in transport.ssl.ca.');
  if ((tls || plain) && !config.sasl)
    return failed(
      `answers, but hangs up on who has not logged in (${why})`,
      'Set transport.sasl to what this port asks for, or name a port without SASL.',
    );
  if (tls || plain) return failed(`answers, but not to what Waltide asks: ${why}`, "Look into the broker's log.");
  return failed(
    `accepts connections, but does not speak Kafka's protocol: ${why}`,
    'Name the port of a Kafka broker in transport.brokers.',
  );
}

function failed(problem: string, remedy: string): Probe {
  return { ok: false, problem, remedy };
}

/** Null = a connection was accepted. */
function reaches({ host, port }: BrokerAddress, timeoutMs: number): Promise<string | null> {
  return new Promise((resolve) => {
    const socket = connectSocket({ host, port });
    const end = (problem: string | null): void => {
      socket.destroy();
      resolve(problem);
    };
    socket.setTimeout(timeoutMs, () => end(`no answer within ${timeoutMs} ms`));
    socket.once('connect', () => end(null));
    socket.once('error', (error) => end(messageOf(error)));
  });
}

function speaksTls({ host, port }: BrokerAddress): Promise<boolean> {
  const socket = connectTls({ host, port, rejectUnauthorized: false });
  return within(socket, async () => {
    await once(socket, 'secureConnect');
    return true;
  });
}

/** ApiVersions of version 0, which every broker answers, logged in or not. */
function speaksPlain({ host, port }: BrokerAddress): Promise<boolean> {
  const correlation = 0x5761_6c74;
  const request = Buffer.alloc(14);
  request.writeInt32BE(10, 0);
  request.writeInt16BE(18, 4);
  request.writeInt16BE(0, 6);
  request.writeInt32BE(correlation, 8);
  request.writeInt16BE(-1, 12);
  const socket = connectSocket({ host, port });
  return within(socket, async () => {
    socket.write(request);
    const [answer] = (await once(socket, 'data')) as [Buffer];
    return answer.length >= 8 && answer.readInt32BE(4) === correlation;
  });
}

async function within(socket: Socket, work: () => Promise<boolean>): Promise<boolean> {
  socket.setTimeout(ANSWER_MS, () => socket.destroy(new Error('no answer')));
  socket.on('error', () => {});
  const closed = new Promise<boolean>((resolve) => socket.once('close', () => resolve(false)));
  try {
    return await Promise.race([work().catch(() => false), closed]);
  } finally {
    socket.destroy();
  }
}
