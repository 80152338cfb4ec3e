import { randomBytes, timingSafeEqual } from 'node:crypto';
import { rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { hostname } from 'node:os';
import { z } from 'zod';
import { messageOf, WaltideError } from '../errors.ts';
import { formatLsn, parseLsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import type { ReplayPlan, ReplayRequest } from '../pipeline/replay.ts';
import type { PipelineStatus } from '../pipeline/status.ts';
import type { QueryResult } from '../sink/sink.ts';
import { writeControlFile } from './control-file.ts';
import { toJson } from './json.ts';

/** What the control address gives access to. */
export interface Controlled {
  status(): PipelineStatus;
  query(sql: string, options: { sink?: string; rowsMax: number; timeoutMs: number }): Promise<QueryResult>;
  replay(request: ReplayRequest): Promise<ReplayPlan>;
}

export interface ControlServerOptions {
  readonly stateDir: string;
  readonly slot: string;
  readonly role: string;
  readonly target: Controlled;
  readonly log: Log;
}

const BODY_BYTES_MAX = 1024 * 1024;
export const QUERY_ROWS_MAX = 1_000_000;
export const QUERY_TIMEOUT_MS_MAX = 24 * 3_600_000;

const queryBody = z.strictObject({
  sql: z.string().min(1),
  sink: z.string().min(1).optional(),
  rowsMax: z.number().int().min(1).max(QUERY_ROWS_MAX),
  timeoutMs: z.number().int().min(1).max(QUERY_TIMEOUT_MS_MAX),
});

const lsn = z.string().transform((text, context) => {
  try {
    return parseLsn(text);
  } catch (error) {
    context.addIssue(messageOf(error));
    return z.NEVER;
  }
});
const replayBody = z.strictObject({
  sink: z.string().min(1),
  tables: z.array(z.strictObject({ schema: z.string().min(1), table: z.string().min(1) })).nullable(),
  from: z.union([
    z.strictObject({ lsn }),
    z.strictObject({ time: z.iso.datetime().transform((text) => new Date(text)) }),
  ]),
});

/** A refusal with its HTTP status. */
class Refusal extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/**
 * The local control address: HTTP on a free port of 127.0.0.1, opened by a token that only this user can read.
 * `GET /status`, `POST /query {sql, sink?, rowsMax, timeoutMs}`, `POST /replay {sink, tables, from: {lsn} | {time}}`;
 * `Authorization: Bearer <token>`.
 */
export class ControlServer {
  readonly #options: ControlServerOptions;
  readonly #token = randomBytes(32).toString('hex');
  readonly #server: Server;
  #path: string | null = null;

  private constructor(options: ControlServerOptions) {
    this.#options = options;
    this.#server = createServer((request, response) => void this.#handle(request, response));
    this.#server.headersTimeout = 5000;
    this.#server.requestTimeout = 10_000;
  }

  /** Resolves = listening, and the control file can be found. */
  static async start(options: ControlServerOptions): Promise<ControlServer> {
    const server = new ControlServer(options);
    await server.#listen();
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async #listen(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(0, '127.0.0.1', resolve);
    });
    const { stateDir, slot, role, log } = this.#options;
    const entry = { pid: process.pid, host: hostname(), role, slot, url: this.url, token: this.#token };
    try {
      this.#path = await writeControlFile(stateDir, entry, log);
    } catch (error) {
      this.#server.close();
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
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      this.#authorise(request);
      const result = await this.#route(request);
      send(response, 200, result);
    } catch (error) {
      const { status, body } = describe(error);
      // What was not read of a refused body must not be taken for the next request.
      response.setHeader('connection', 'close');
      send(response, status, { error: body });
    }
  }

  /** A page in a browser can reach loopback too: by a name of its own (DNS rebinding) or across origins. */
  #authorise(request: IncomingMessage): void {
    const { port } = this.#server.address() as AddressInfo;
    const hosts = [`127.0.0.1:${port}`, `localhost:${port}`];
    if (!hosts.includes(request.headers.host ?? '') || request.headers.origin !== undefined)
      throw new Refusal(403, 'this address answers only local programs, under 127.0.0.1');
    const given = Buffer.from(/^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1] ?? '');
    const wanted = Buffer.from(this.#token);
    // Lengths are no secret; contents are compared in constant time.
    if (given.length !== wanted.length || !timingSafeEqual(given, wanted))
      throw new Refusal(401, 'the token is wrong; it is in the control file');
  }

  async #route(request: IncomingMessage): Promise<unknown> {
    const path = (request.url ?? '').split('?', 1)[0];
    const { target } = this.#options;
    if (path === '/status') {
      if (request.method !== 'GET') throw new Refusal(405, 'use GET');
      return target.status();
    }
    if (path === '/query') {
      if (request.method !== 'POST') throw new Refusal(405, 'use POST');
      const { sql, sink, rowsMax, timeoutMs } = parse(queryBody, await readBody(request));
      return target.query(sql, { rowsMax, timeoutMs, ...(sink === undefined ? {} : { sink }) });
    }
    if (path === '/replay') {
      if (request.method !== 'POST') throw new Refusal(405, 'use POST');
      const { sink, tables, from, stoodAt } = await target.replay(parse(replayBody, await readBody(request)));
      return { sink, tables, from: from === null ? null : formatLsn(from), stoodAt: formatLsn(stoodAt) };
    }
    throw new Refusal(404, 'there are only /status, /query and /replay');
  }
}

function parse<T extends z.ZodType>(schema: T, text: string): z.infer<T> {
  try {
    return schema.parse(JSON.parse(text));
  } catch (error) {
    if (error instanceof z.ZodError) throw new Refusal(400, z.prettifyError(error));
    throw new Refusal(400, 'the body is not JSON');
  }
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > BODY_BYTES_MAX) throw new Refusal(413, `the body is longer than ${BODY_BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function describe(error: unknown): { status: number; body: { code: string; message: string; help: string } } {
  if (error instanceof Refusal)
    return { status: error.status, body: { code: 'USAGE', message: error.message, help: '' } };
  if (error instanceof WaltideError)
    return {
      status: error.side === 'internal' ? 500 : 422,
      body: { code: error.code, message: error.message, help: error.help },
    };
  return { status: 500, body: { code: 'INTERNAL', message: messageOf(error), help: '' } };
}

function send(response: ServerResponse, status: number, body: unknown): void {
  if (response.destroyed) return;
  response.writeHead(status, {
    'content-type': 'application/json',
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  });
  response.end(toJson(body));
}
