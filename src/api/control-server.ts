import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { hostname } from 'node:os';
import type { FastifyInstance } from 'fastify';
import type { Audit } from './audit.ts';
import { writeControlFile } from './control-file.ts';
import { HEADERS_TIMEOUT_MS, REQUEST_TIMEOUT_MS } from './limits.ts';
import type { Deps } from './route.ts';

export interface ControlServerOptions {
  /** Of the pipeline, in the name of the control file. */
  readonly role: string;
  readonly deps: Deps;
  readonly audit: Audit;
}

/**
 * The local control address: the API on a free port of 127.0.0.1, opened by a token that only this user can read, and
 * that may do everything. The API itself is loaded with the first request: most processes are never asked.
 */
export class ControlServer {
  readonly #token = randomBytes(32).toString('hex');
  readonly #server = createServer(
    { headersTimeout: HEADERS_TIMEOUT_MS, requestTimeout: REQUEST_TIMEOUT_MS },
    (request, response) => void this.#answer(request, response),
  );
  readonly #options: ControlServerOptions;
  #app: Promise<FastifyInstance> | null = null;
  #path: string | null = null;

  private constructor(options: ControlServerOptions) {
    this.#options = options;
  }

  /** Resolves = listening, and the control file can be found. */
  static async start(options: ControlServerOptions): Promise<ControlServer> {
    const server = new ControlServer(options);
    server.#server.listen({ port: 0, host: '127.0.0.1' });
    await once(server.#server, 'listening');
    await server.#leaveFile();
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  get #port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async #leaveFile(): Promise<void> {
    const { role, deps } = this.#options;
    const { config, log } = deps;
    const entry = {
      pid: process.pid,
      host: hostname(),
      role,
      slot: config.source.slot,
      url: this.url,
      token: this.#token,
    };
    try {
      this.#path = await writeControlFile(config.stateDir, entry, log);
    } catch (error) {
      await this.close();
      throw error;
    }
    // A process that ends in a hurry still takes its address along.
    process.on('exit', this.#removeFile);
  }

  readonly #removeFile = (): void => {
    if (this.#path) rmSync(this.#path, { force: true });
    this.#path = null;
  };

  async close(): Promise<void> {
    process.off('exit', this.#removeFile);
    this.#removeFile();
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
    await (await this.#app?.catch(() => null))?.close();
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      this.#app ??= this.#load();
      (await this.#app).routing(request, response);
    } catch (error) {
      this.#options.deps.log.error({ err: error }, 'the control address cannot answer');
      response.writeHead(500).end();
    }
  }

  async #load(): Promise<FastifyInstance> {
    const { deps, audit } = this.#options;
    const { createControlApp } = await import('./control-app.ts');
    return createControlApp({ deps, audit, token: this.#token, port: this.#port });
  }
}
