import { request as plainRequest } from 'node:http';
import { request as tlsRequest } from 'node:https';
import { type ErrorCode, messageOf, POLICIES, WaltideError } from '../errors.ts';
import type { Problem } from './problem.ts';
import { API_BASE } from './route.ts';

/** An API that somebody can be asked for. */
export interface Endpoint {
  /** What comes before API_BASE, without a slash at the end. */
  readonly url: string;
  /** Sent as `Authorization: Bearer`; null for none. */
  readonly token: string | null;
  /** In messages: `the process with pid 4711`. */
  readonly name: string;
}

export interface Ask {
  readonly method?: 'GET' | 'POST' | 'DELETE';
  /** Below API_BASE. */
  readonly path: string;
  readonly body?: object | null;
  readonly timeoutMs: number;
  /** Longest answer that is read; left out: whatever comes. */
  readonly bytesMax?: number;
}

const REFUSED = 'See the log of the running process.';

/** It took the connection and has not answered in time: busy or hanging, but there. */
class NoAnswer extends Error {
  override readonly name = 'NoAnswer';
}

/** True where whoever was asked may well be there, and has only not answered in time. */
export function isSlow(error: unknown): boolean {
  return error instanceof WaltideError && error.cause instanceof NoAnswer;
}

/** Asks one route; redirects are not followed. Rejects with the process's own WaltideError, or with NOT_RUNNING. */
export function askApi<T>({ url, token, name }: Endpoint, ask: Ask): Promise<T> {
  const { method = 'GET', path, body = null, timeoutMs, bytesMax = Number.POSITIVE_INFINITY } = ask;
  const notReached = (cause: unknown): WaltideError =>
    new WaltideError(
      'NOT_RUNNING',
      `${name} cannot be reached: ${messageOf(cause)}`,
      cause instanceof NoAnswer
        ? 'It may only be busy: ask again, and see its log. Do not start a second one while it lives.'
        : 'See whether it still runs, and start it with `waltide run`.',
      { cause },
    );
  const text = body === null ? null : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const outgoing = (url.startsWith('https:') ? tlsRequest : plainRequest)(
      url + API_BASE + path,
      {
        method,
        headers: {
          ...(token === null ? {} : { authorization: `Bearer ${token}` }),
          ...(text === null ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }),
        },
        signal: AbortSignal.timeout(timeoutMs),
        agent: false,
      },
      (response) => {
        const chunks: Buffer[] = [];
        let bytes = 0;
        response.on('data', (chunk: Buffer) => {
          bytes += chunk.length;
          if (bytes > bytesMax) response.destroy(new Error(`its answer is longer than ${bytesMax} bytes`));
          else chunks.push(chunk);
        });
        response.on('error', (error) => reject(notReached(timedOut(error, timeoutMs))));
        response.on('end', () => {
          const status = response.statusCode!;
          try {
            const answer = parsed(Buffer.concat(chunks).toString('utf8'), status);
            if (status < 300) resolve(answer as T);
            else reject(asError(answer));
          } catch (error) {
            reject(notReached(error));
          }
        });
      },
    );
    outgoing.on('error', (error) => reject(notReached(timedOut(error, timeoutMs))));
    outgoing.end(text ?? undefined);
  });
}

function timedOut(error: Error, timeoutMs: number): Error {
  return error.name === 'AbortError' || error.name === 'TimeoutError'
    ? new NoAnswer(`no answer within ${timeoutMs} ms`)
    : error;
}

function parsed(text: string, status: number): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`it answers with status ${status} and no JSON, so it is not Waltide`);
  }
}

function asError(answer: unknown): WaltideError {
  const { code, detail, help } = (answer ?? {}) as Partial<Problem>;
  const known: ErrorCode = code !== undefined && Object.hasOwn(POLICIES, code) ? (code as ErrorCode) : 'INTERNAL';
  return new WaltideError(known, detail ?? 'the running process refused', help || REFUSED);
}
