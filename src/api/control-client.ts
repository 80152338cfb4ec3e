import { hostname } from 'node:os';
import type { ExportWish } from '../control/store-runs.ts';
import { messageOf, WaltideError } from '../errors.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import type { QueryOptions } from '../pipeline/query.ts';
import type { ReplayRequest } from '../pipeline/replay.ts';
import type { PipelineStatus } from '../pipeline/status.ts';
import type { QueryResult } from '../sink/sink.ts';
import { askApi, type Endpoint } from './client.ts';
import { type ControlFile, isAlive, readControlFiles } from './control-file.ts';

const STATUS_TIMEOUT_MS = 5000;
/** Beyond the query's own timeout, so that its own message wins. */
const QUERY_GRACE_MS = 5000;
/** Closing and opening everything, and searching a log. */
const REPLAY_TIMEOUT_MS = 120_000;
/** Until a run has begun. */
const START_TIMEOUT_MS = 30_000;

export interface RunningProcess {
  readonly file: ControlFile;
  readonly status: PipelineStatus;
}

export interface Found {
  readonly running: readonly RunningProcess[];
  /** Processes that live and do not answer, and why. */
  readonly silent: readonly string[];
  /** Those of them that are on this machine: busy or hanging, and not to be taken for gone. */
  readonly slow: readonly ControlFile[];
}

/** Asks every process of `slot` that left its control address in `stateDir`. What a killed process left is passed over. */
export async function findProcesses(stateDir: string, slot: string): Promise<Found> {
  const files = (await readControlFiles(stateDir, slot)).filter(isAlive);
  const elsewhere = files.filter(({ host }) => host !== hostname());
  const here = files.filter(({ host }) => host === hostname());
  const running: RunningProcess[] = [];
  const slow: ControlFile[] = [];
  const silent = elsewhere.map(({ pid, host }) => `the one with pid ${pid} is on ${host}: ask there`);
  const answers = await Promise.allSettled(
    here.map((file) => call<PipelineStatus>(file, 'GET', '/cdc/status', null, STATUS_TIMEOUT_MS)),
  );
  for (const [i, answer] of answers.entries()) {
    const file = here[i]!;
    if (answer.status === 'fulfilled') running.push({ file, status: answer.value });
    // Refused = the pid belongs to another program by now.
    else if (!isRefused(answer.reason)) {
      slow.push(file);
      silent.push(`the one with pid ${file.pid} does not answer: ${messageOf(answer.reason)}`);
    }
  }
  return { running, silent, slow };
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

/** A backup through the process that holds the sink, into an absolute path. Resolves with the id of its run. */
export async function backUpThroughProcess(file: ControlFile, sink: string, to: string): Promise<string> {
  const path = `/sinks/${encodeURIComponent(sink)}/backup`;
  return (await call<{ run_id: string }>(file, 'POST', path, { to }, START_TIMEOUT_MS)).run_id;
}

/** An export through the process that holds the sink. Resolves with the id of its run. */
export async function exportThroughProcess(file: ControlFile, sink: string, wish: ExportWish): Promise<string> {
  const { partitionBy: partition_by, rowGroupSize: row_group_size, ...rest } = wish;
  const path = `/sinks/${encodeURIComponent(sink)}/export`;
  const body = { ...rest, partition_by, row_group_size };
  return (await call<{ run_id: string }>(file, 'POST', path, body, START_TIMEOUT_MS)).run_id;
}

/** True where nobody, or another, answers at its address. One that is merely slow has not left. */
export async function hasLeft(file: ControlFile): Promise<boolean> {
  try {
    await call(file, 'GET', '/cdc/status', null, STATUS_TIMEOUT_MS);
    return false;
  } catch (error) {
    return isRefused(error) || (error instanceof WaltideError && error.code === 'UNAUTHENTICATED');
  }
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
  return askApi(endpointOf(file), { method, path, body, timeoutMs });
}

export function endpointOf({ url, token, pid }: ControlFile): Endpoint {
  return { url, token, name: `the process with pid ${pid}` };
}
