import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { hostname } from 'node:os';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { WaltideError } from '../errors.ts';
import { createApp } from './app.ts';
import type { Audit } from './audit.ts';
import { localAdmin } from './auth/authenticate.ts';
import { sameSecret } from './auth/secrets.ts';
import { userName } from './auth/user-name.ts';
import { writeControlFile } from './control-file.ts';
import { CONTROL_BODY_BYTES_MAX } from './limits.ts';
import type { Deps, Principal } from './route.ts';
import { ROUTES } from './routes.ts';

export interface ControlServerOptions {
  /** Of the pipeline, in the name of the control file. */
  readonly role: string;
  readonly deps: Deps;
  readonly audit: Audit;
}

/**
 * The local control address: the API on a free port of 127.0.0.1, opened by a token that only this user can read, and
 * that may do everything.
 */
export class ControlServer {
  readonly #token = randomBytes(32).toString('hex');
  readonly #app: FastifyInstance;
  #path: string | null = null;

  private constructor(app: FastifyInstance) {
    this.#app = app;
  }

  /** Resolves = listening, and the control file can be found. */
  static async start({ role, deps, audit }: ControlServerOptions): Promise<ControlServer> {
    const authenticate = (request: FastifyRequest): Principal => server.#authenticate(request);
    const app = await createApp({
      routes: ROUTES,
      deps: { ...deps, local: true },
      audit,
      bodyBytesMax: CONTROL_BODY_BYTES_MAX,
      authenticate,
    });
    const server = new ControlServer(app);
    await app.listen({ port: 0, host: '127.0.0.1' });
    await server.#leaveFile(role, deps);
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#app.server.address() as AddressInfo).port}`;
  }

  async #leaveFile(role: string, { config: { stateDir, source }, log }: Deps): Promise<void> {
    const entry = { pid: process.pid, host: hostname(), role, slot: source.slot, url: this.url, token: this.#token };
    try {
      this.#path = await writeControlFile(stateDir, entry, log);
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

  #authenticate({ headers }: FastifyRequest): Principal {
    const admin = localAdmin(headers, (this.#app.server.address() as AddressInfo).port, `local:${userName()}`);
    const token = /^Bearer (.+)$/.exec(headers.authorization ?? '')?.[1] ?? '';
    if (sameSecret(token, this.#token)) return admin;
    throw new WaltideError('UNAUTHENTICATED', 'the token is wrong', 'It is in the control file in stateDir.');
  }
}
