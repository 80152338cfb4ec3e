import { request } from 'node:http';
import { hostname } from 'node:os';
import { type ErrorCode, messageOf, POLICIES, WaltideError } from '../errors.ts';
import { formatLsn } from '../event/lsn.ts';
import type { ReplayRequest } from '../pipeline/replay.ts';
import type { PipelineStatus } from '../pipeline/status.ts';
import type { QueryResult } from '../sink/sink.ts';
import { type ControlFile, isAlive, readControlFiles } from './control-file.ts';

const STATUS_TIMEOUT_MS = 5000;
/** Beyond the query's own timeout, so that its own message wins. */
const QUERY_GRACE_MS = 5000;
/** Closing and opening everything, and searching a log. */
const REPLAY_TIMEOUT_MS = 120_000;

export interface RunningProcess {
  readonly file: ControlFile;
  readonly status: PipelineStatus;
}

export interface Found {
  readonly running: readonly RunningProcess[];
  /** Processes that live and do not answer, and why. */
  readonly silent: readonly string[];
}

/** Asks every process of `slot` that left its control address in `stateDir`. What a killed process left is passed over. */
export async function findProcesses(stateDir: string, slot: string): Promise<Found> {
  const running: RunningProcess[] = [];
  const silent: string[] = [];
  for (const file of await readControlFiles(stateDir, slot)) {
    if (!isAlive(file)) continue;
    if (file.host !== hostname()) {
      silent.push(`the one with pid ${file.pid} is on ${file.host}: ask there`);
      continue;
    }
    try {
      running.push({ file, status: (await call(file, 'GET', '/status', null, STATUS_TIMEOUT_MS)) as PipelineStatus });
    } catch (error) {
      // Refused = the pid belongs to another program by now.
      if (!isRefused(error)) silent.push(`the one with pid ${file.pid} does not answer: ${messageOf(error)}`);
    }
  }
  return { running, silent };
}

/** Read-only SQL through the process that holds the sink. Rejects as the sink does. */
export async function queryProcess(
  file: ControlFile,
  sql: string,
  options: { sink?: string; rowsMax: number; timeoutMs: number },
): Promise<QueryResult> {
  const body = JSON.stringify({ sql, ...options });
  return (await call(file, 'POST', '/query', body, options.timeoutMs + QUERY_GRACE_MS)) as QueryResult;
}

/** What a running process answers once its sink has gone back; LSNs as text. */
export interface StartedReplay {
  readonly sink: string;
  readonly tables: readonly string[] | null;
  readonly from: string | null;
  readonly stoodAt: string;
}

/** A replay through the process that holds the sink. Rejects, with nothing changed, where it cannot be done. */
export async function replayProcess(file: ControlFile, request: ReplayRequest): Promise<StartedReplay> {
  const from = 'lsn' in request.from ? { lsn: formatLsn(request.from.lsn) } : { time: request.from.time.toISOString() };
  return (await call(
    file,
    'POST',
    '/replay',
    JSON.stringify({ ...request, from }),
    REPLAY_TIMEOUT_MS,
  )) as StartedReplay;
}

function isRefused(error: unknown): boolean {
  return (
    error instanceof WaltideError &&
    error.cause instanceof Error &&
    (error.cause as NodeJS.ErrnoException).code === 'ECONNREFUSED'
  );
}

function call(
  file: ControlFile,
  method: string,
  path: string,
  body: string | null,
  timeoutMs: number,
): Promise<unknown> {
  const notReached = (cause: unknown): WaltideError =>
    new WaltideError(
      'NOT_RUNNING',
      `the process with pid ${file.pid} cannot be reached: ${messageOf(cause)}`,
      'See whether it still runs, and start it with `waltide run`.',
      { cause },
    );
  return new Promise((resolve, reject) => {
    const outgoing = request(
      file.url + path,
      {
        method,
        headers: {
          authorization: `Bearer ${file.token}`,
          ...(body === null ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
        },
        signal: AbortSignal.timeout(timeoutMs),
        agent: false,
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', (error) => reject(notReached(error)));
        response.on('end', () => {
          try {
            const answer: unknown = JSON.parse(Buffer.concat(chunks).toString('utf8'));
            if (response.statusCode === 200) resolve(answer);
            else reject(asError(answer));
          } catch (error) {
            reject(notReached(error));
          }
        });
      },
    );
    outgoing.on('error', (error) =>
      reject(
        notReached(
          error.name === 'AbortError' || error.name === 'TimeoutError'
            ? new Error(`no answer within ${timeoutMs} ms`)
            : error,
        ),
      ),
    );
    outgoing.end(body ?? undefined);
  });
}

function asError(answer: unknown): WaltideError {
  const { code, message, help } =
    (answer as { error?: { code?: string; message?: string; help?: string } }).error ?? {};
  const known: ErrorCode = code !== undefined && Object.hasOwn(POLICIES, code) ? (code as ErrorCode) : 'INTERNAL';
  return new WaltideError(
    known,
    message ?? 'the running process refused',
    help || 'See the log of the running process.',
  );
}
