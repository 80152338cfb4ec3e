import { readFileSync } from 'node:fs';
import { Connection, type ConnectionOptions, type SASLMechanismValue } from '@platformatic/kafka';
import type { KafkaConfig } from '../../config/schema.ts';
import { messageOf, WaltideError } from '../../errors.ts';

export interface BrokerAddress {
  readonly host: string;
  readonly port: number;
}

/** What @platformatic/kafka makes of one request of one version: encoder, decoder and numbers in one. */
export interface Api<Args extends readonly unknown[], Response> {
  readonly async: (connection: Connection, ...args: Args) => Promise<Response>;
}

/** Since when nobody answers any more, by `performance.now`: what all connections to a cluster know together. */
export class Silence {
  #sinceMs: number | null = null;

  answered(): void {
    this.#sinceMs = null;
  }

  failed(): void {
    this.#sinceMs ??= performance.now();
  }

  get ms(): number {
    return this.#sinceMs === null ? 0 : performance.now() - this.#sinceMs;
  }
}

type PemFiles = Exclude<KafkaConfig['ssl'], boolean>;

/** Socket, TLS and SASL settings from the configuration. Throws CONFIG_INVALID where a PEM file cannot be read. */
export function connectionOptions(config: KafkaConfig): ConnectionOptions {
  const options: ConnectionOptions = {
    connectTimeout: config.connectTimeoutMs,
    requestTimeout: config.requestTimeoutMs,
    // The producer bounds its own requests; this only must not be the lower limit.
    maxInflights: 16,
  };
  if (config.ssl !== false) {
    const { ca, cert, key, rejectUnauthorized } =
      config.ssl === true ? ({ rejectUnauthorized: true } as PemFiles) : config.ssl;
    options.tls = {
      ...(ca === undefined ? {} : { ca: readPem('ca', ca) }),
      ...(cert === undefined ? {} : { cert: readPem('cert', cert) }),
      ...(key === undefined ? {} : { key: readPem('key', key) }),
      rejectUnauthorized,
    };
  }
  if (config.sasl) {
    options.sasl = {
      mechanism: config.sasl.mechanism.toUpperCase() as SASLMechanismValue,
      username: config.sasl.username,
      password: config.sasl.password,
    };
  }
  return options;
}

function readPem(key: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new WaltideError(
      'CONFIG_INVALID',
      `transport.ssl.${key}: cannot read ${path}: ${messageOf(cause)}`,
      'Give the path of a PEM file that this process may read.',
      { cause },
    );
  }
}

/**
 * One lane of connections: at most one per broker. A broker answers a connection's requests strictly in order, so
 * whatever may be held back there (a long poll, joining a group) needs a lane of its own.
 */
export class Connections {
  readonly #clientId: string;
  readonly #options: ConnectionOptions;
  readonly #silence: Silence;
  readonly #open = new Map<string, Promise<Connection>>();
  #closed = false;

  constructor(clientId: string, options: ConnectionOptions, silence: Silence) {
    this.#clientId = clientId;
    this.#options = options;
    this.#silence = silence;
  }

  /** Resolves with a connection that was usable a moment ago; rejects where the broker cannot be reached. */
  get(broker: BrokerAddress): Promise<Connection> {
    if (this.#closed) return Promise.reject(new Error('the transport is closed'));
    const key = `${broker.host}:${broker.port}`;
    const existing = this.#open.get(key);
    if (existing) return existing;
    const connection = new Connection(this.#clientId, this.#options);
    const opening = this.#connect(connection, broker);
    this.#open.set(key, opening);
    const forget = () => {
      if (this.#open.get(key) === opening) this.#open.delete(key);
    };
    // An 'error' without a listener would end the process; requests under way are told by the connection itself.
    connection.on('error', () => {
      forget();
      connection.socket?.destroy();
    });
    connection.on('close', forget);
    opening.then(
      () => this.#silence.answered(),
      () => {
        forget();
        this.#silence.failed();
      },
    );
    return opening;
  }

  async #connect(connection: Connection, broker: BrokerAddress): Promise<Connection> {
    await connection.connect(broker.host, broker.port);
    if (this.#closed) {
      void connection.close();
      throw new Error('the transport is closed');
    }
    return connection;
  }

  /** Sends one request. A server's error code is in the response; only failures to talk are rejections. */
  async call<Args extends readonly unknown[], Response>(
    broker: BrokerAddress,
    api: Api<Args, Response>,
    ...args: Args
  ): Promise<Response> {
    const connection = await this.get(broker);
    try {
      const response = await api.async(connection, ...args);
      this.#silence.answered();
      return response;
    } catch (error) {
      const response = responseOf<Response>(error);
      if (response !== undefined) return response;
      this.#silence.failed();
      // After a time-out answers would no longer match; the connection is of no further use.
      connection.socket?.destroy();
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    const open = [...this.#open.values()];
    this.#open.clear();
    await Promise.allSettled(open.map(async (connection) => (await connection).close()));
  }
}

/** The client throws where a response carries an error code; callers here want the response. */
export function responseOf<Response>(error: unknown): Response | undefined {
  return error instanceof Error && 'response' in error && error.response ? (error.response as Response) : undefined;
}

/** True where the broker refused our credentials: trying again cannot help. */
export function isAuthenticationError(error: unknown): boolean {
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    if ('code' in at && at.code === 'PLT_KFK_AUTHENTICATION') return true;
  }
  return false;
}
