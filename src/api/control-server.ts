import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { rmSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { hostname, userInfo } from 'node:os';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { WaltideError } from '../errors.ts';
import { createApp } from './app.ts';
import { writeControlFile } from './control-file.ts';
import { CONTROL_BODY_BYTES_MAX } from './limits.ts';
import type { Deps, Principal } from './route.ts';
import { ROUTES } from './routes.ts';

export interface ControlServerOptions {
  /** Of the pipeline, in the name of the control file. */
  readonly role: string;
  readonly deps: Deps;
}

/**
 * The local control address: the API on a free port of 127.0.0.1, opened by a token that only this user can read, and
 * that may do everything.
 */
export class ControlServer {
  readonly #options: ControlServerOptions;
  readonly #token = randomBytes(32).toString('hex');
  readonly #app: FastifyInstance;
  readonly #principal: Principal = { name: `local:${userName()}`, role: 'admin' };
  #path: string | null = null;

  private constructor(options: ControlServerOptions) {
    this.#options = options;
    const { deps } = options;
    this.#app = createApp({
      routes: ROUTES,
      deps,
      log: deps.log,
      bodyBytesMax: CONTROL_BODY_BYTES_MAX,
      authenticate: (request) => this.#authenticate(request),
    });
  }

  /** Resolves = listening, and the control file can be found. */
  static async start(options: ControlServerOptions): Promise<ControlServer> {
    const server = new ControlServer(options);
    await server.#listen();
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#app.server.address() as AddressInfo).port}`;
  }

  async #listen(): Promise<void> {
    await this.#app.listen({ port: 0, host: '127.0.0.1' });
    const { role, deps } = this.#options;
    const { stateDir, source } = deps.config;
    const entry = { pid: process.pid, host: hostname(), role, slot: source.slot, url: this.url, token: this.#token };
    try {
      this.#path = await writeControlFile(stateDir, entry, deps.log);
    } catch (error) {
      await this.#app.close();
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
    await this.#app.close();
  }

  /** A page in a browser can reach loopback too: by a name of its own (DNS rebinding) or across origins. */
  #authenticate({ headers }: FastifyRequest): Principal {
    const { port } = this.#app.server.address() as AddressInfo;
    const hosts = [`127.0.0.1:${port}`, `localhost:${port}`];
    if (!hosts.includes(headers.host ?? '') || headers.origin !== undefined)
      throw new WaltideError(
        'FORBIDDEN',
        'this address answers only local programs, under 127.0.0.1',
        'Ask it under 127.0.0.1, from a program on this machine; for others there is api.enabled.',
      );
    if (sameSecret(/^Bearer (.+)$/.exec(headers.authorization ?? '')?.[1] ?? '', this.#token)) return this.#principal;
    throw new WaltideError('UNAUTHENTICATED', 'the token is wrong', 'It is in the control file in stateDir.');
  }
}

/** In constant time, whatever their lengths. */
function sameSecret(given: string, wanted: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(given), digest(wanted));
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    // In a container the user may have no name.
    return String(process.getuid?.() ?? 'unknown');
  }
}
