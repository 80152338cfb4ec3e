import { request } from 'node:http';
import { hostname } from 'node:os';
import { type ErrorCode, messageOf, POLICIES, WaltideError } from '../errors.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import type { QueryOptions } from '../pipeline/query.ts';
import type { ReplayRequest } from '../pipeline/replay.ts';
import type { PipelineStatus } from '../pipeline/status.ts';
import type { QueryResult } from '../sink/sink.ts';
import { type ControlFile, isAlive, readControlFiles } from './control-file.ts';
import type { Problem } from './problem.ts';
import { API_BASE } from './route.ts';

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
      running.push({ file, status: await call<PipelineStatus>(file, 'GET', '/cdc/status', null, STATUS_TIMEOUT_MS) });
    } catch (error) {
      // Refused = the pid belongs to another program by now.
      if (!isRefused(error)) silent.push(`the one with pid ${file.pid} does not answer: ${messageOf(error)}`);
    }
  }
  return { running, silent };
}

/** Read-only SQL through the process that holds the sink. Rejects as the sink does. */
export function queryProcess(
  file: ControlFile,
  sql: string,
  { sink, rowsMax, timeoutMs, minLsn }: QueryOptions & { readonly sink: string },
): Promise<QueryResult> {
  const min_lsn = minLsn === undefined ? undefined : formatLsn(minLsn);
  const body = { sql, rows_max: rowsMax, timeout_ms: timeoutMs, min_lsn };
  return call(file, 'POST', `/sinks/${encodeURIComponent(sink)}/query`, body, timeoutMs + QUERY_GRACE_MS);
}

/** Resolves once a sink that the process holds has applied what was committed before `lsn`. Rejects with NOT_REACHED. */
export async function waitInProcess(file: ControlFile, sink: string, lsn: Lsn, timeoutMs: number): Promise<void> {
  const query = new URLSearchParams({ lsn: formatLsn(lsn), sink, timeout: `${timeoutMs}ms` });
  await call(file, 'GET', `/sync/wait?${query}`, null, timeoutMs + QUERY_GRACE_MS);
}

/** What a running process answers once its sink has gone back; LSNs as text. */
export interface StartedReplay {
  readonly sink: string;
  readonly tables: readonly string[] | null;
  readonly from: string | null;
  readonly stoodAt: string;
  /** Id of the run that ends when the sink is where it stood: `waltide history`. */
  readonly run: string;
}

/** A replay through the process that holds the sink. Rejects, with nothing changed, where it cannot be done. */
export async function replayProcess(
  file: ControlFile,
  { sink, tables, from: start }: ReplayRequest,
): Promise<StartedReplay> {
  const from = 'lsn' in start ? { lsn: formatLsn(start.lsn) } : { time: start.time.toISOString() };
  const path = `/sinks/${encodeURIComponent(sink)}/replay`;
  const started = await call<Pick<StartedReplay, 'sink' | 'tables' | 'from'> & { run_id: string; stood_at: string }>(
    file,
    'POST',
    path,
    { tables, from },
    REPLAY_TIMEOUT_MS,
  );
  return { sink, tables: started.tables, from: started.from, stoodAt: started.stood_at, run: started.run_id };
}

function isRefused(error: unknown): boolean {
  return (
    error instanceof WaltideError &&
    error.cause instanceof Error &&
    (error.cause as NodeJS.ErrnoException).code === 'ECONNREFUSED'
  );
}

/** Asks one route, below API_BASE. Rejects with the process's own WaltideError, or with NOT_RUNNING. */
export function call<T>(
  file: ControlFile,
  method: 'GET' | 'POST' | 'DELETE',
  path: string,
  body: object | null,
  timeoutMs: number,
): Promise<T> {
  const notReached = (cause: unknown): WaltideError =>
    new WaltideError(
      'NOT_RUNNING',
      `the process with pid ${file.pid} cannot be reached: ${messageOf(cause)}`,
      'See whether it still runs, and start it with `waltide run`.',
      { cause },
    );
  const text = body === null ? null : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const outgoing = request(
      file.url + API_BASE + path,
      {
        method,
        headers: {
          authorization: `Bearer ${file.token}`,
          ...(text === null ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }),
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
            if (response.statusCode! < 300) resolve(answer as T);
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
    outgoing.end(text ?? undefined);
  });
}

function asError(answer: unknown): WaltideError {
  const { code, detail, help } = (answer ?? {}) as Partial<Problem>;
  const known: ErrorCode = code !== undefined && Object.hasOwn(POLICIES, code) ? (code as ErrorCode) : 'INTERNAL';
  return new WaltideError(
    known,
    detail ?? 'the running process refused',
    help || 'See the log of the running process.',
  );
}
